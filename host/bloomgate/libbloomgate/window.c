#include "bloomgate.h"

#include "barrier.h"

/* Whether `count` words from `offset` are in the window. */
static int in_range(const struct bloomgate_window *window, uint32_t offset, size_t count)
{
    return offset % 4 == 0 && offset <= window->bytes && count <= (window->bytes - offset) / 4;
}

int bloomgate_read(const struct bloomgate_window *window, uint32_t offset, uint32_t *to, size_t count)
{
    if (!in_range(window, offset, count)) {
        return BLOOMGATE_E_RANGE;
    }
    const volatile uint32_t *from = window->words + offset / 4;
    for (size_t i = 0; i < count; i++) {
        to[i] = from[i];
    }
    bloomgate_load_barrier();
    return BLOOMGATE_OK;
}

int bloomgate_write(const struct bloomgate_window *window, uint32_t offset, const uint32_t *from, size_t count)
{
    if (!in_range(window, offset, count)) {
        return BLOOMGATE_E_RANGE;
    }
    volatile uint32_t *to = window->words + offset / 4;
    bloomgate_store_barrier();
    for (size_t i = 0; i < count; i++) {
        to[i] = from[i];
    }
    return BLOOMGATE_OK;
}

int bloomgate_poll(const struct bloomgate_window *window, uint32_t offset, uint32_t *to, size_t count, uint32_t mask,
                   uint32_t value, unsigned int polls)
{
    if (count == 0) {
        return BLOOMGATE_E_RANGE;
    }
    for (unsigned int poll = 0; poll < polls; poll++) {
        int status = bloomgate_read(window, offset, to, 1);
        if (status != BLOOMGATE_OK) {
            return status;
        }
        if ((to[0] & mask) == value) {
            break;
        }
    }
    /* The load barrier of the read above lies between the word that was waited for and those that it vouches for. */
    return bloomgate_read(window, offset + 4, to + 1, count - 1);
}

const char *bloomgate_message(int status)
{
    switch (status) {
    case BLOOMGATE_OK:
        return "success";
    case BLOOMGATE_E_SYSTEM:
        return "the system refused; errno says why";
    case BLOOMGATE_E_NO_NODE:
        return "there is no node for that page at its address; load the device-tree overlay";
    case BLOOMGATE_E_IN_USE:
        return "another process uses that page";
    case BLOOMGATE_E_FABRIC:
        return "the fabric is not known to be configured; load the bitstream with `bloomgate load`";
    case BLOOMGATE_E_RANGE:
        return "the access is outside the window or not aligned to a word";
    case BLOOMGATE_E_IDENTIFICATION:
        return "this is not a bloomgate device";
    case BLOOMGATE_E_VERSION:
        return "the gateware speaks another major version of the register interface";
    case BLOOMGATE_E_GEOMETRY:
        return "the gateware has a geometry that this library cannot use";
    case BLOOMGATE_E_KEY:
        return "a key does not fit in key_bits";
    case BLOOMGATE_E_SNAPSHOT:
        return "the snapshot is larger than any timestamp";
    case BLOOMGATE_E_TOO_LARGE:
        return "the request has more keys than the slot can buffer";
    case BLOOMGATE_E_TIMEOUT:
        return "the device did not answer in time; reset or reload it";
    case BLOOMGATE_E_UNSETTLED:
        return "an earlier request of the slot is not settled";
    case BLOOMGATE_E_MEMORY:
        return "the slot has no memory for a queue pair of this geometry";
    case BLOOMGATE_E_COHERENCE:
        return "the gateware reaches memory in another way than it is mapped here: UIO needs S_AXI_HP0, the module S_AXI_ACP";
    case BLOOMGATE_E_FULL:
        return "all entries of the ring are in use";
    default:
        return "unknown status";
    }
}
