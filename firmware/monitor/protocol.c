#include "protocol.h"

#include "access.h"
#include "bloomgate_registers.h"
#include "fabric.h"
#include "uart.h"
#include "zynq.h"

/* The host's session, and the sequence number and kept reply of its newest request. */
static struct {
    bool open, replied;
    uint32_t number;
    uint16_t newest;
} session;
static struct frame reply;

static void begin_reply(struct frame *frame, const struct frame *request, enum bloomgate_serial_status status)
{
    frame->header = request->header;
    frame->header.operation |= BLOOMGATE_SERIAL_REPLY;
    frame->header.status = (uint8_t)status;
    frame->header.words = 0;
}

static void append(struct frame *frame, uint32_t word)
{
    frame->payload[frame->header.words++] = word;
}

/* A reply to what is not the newest request, which leaves the kept one alone. */
static void answer(const struct frame *request, enum bloomgate_serial_status status)
{
    static struct frame other;

    begin_reply(&other, request, status);
    if (status == BLOOMGATE_SERIAL_STATUS_OK) {
        append(&other, BLOOMGATE_SERIAL_PROTOCOL_VERSION);
        append(&other, BLOOMGATE_BASE_ADDRESS);
        append(&other, fabric_state());
        append(&other, read32(SLCR_REBOOT_STATUS));
    }
    frame_send(&other, uart_send);
}

static void hello(const struct frame *request)
{
    if (!session.open || session.number != request->header.session) {
        session.open = true;
        session.replied = false;
        session.number = request->header.session;
        session.newest = 0;
    }
    answer(request, BLOOMGATE_SERIAL_STATUS_OK);
}

static bool in_window(uint32_t offset, uint32_t words)
{
    return offset % 4 == 0 && words >= 1 && words <= BLOOMGATE_SERIAL_MAX_BURST_WORDS &&
           offset <= BLOOMGATE_SERIAL_WINDOW_BYTES - 4 * words;
}

/* The accesses stop at the first abort: its address, status, and how many words were done before. */
static bool done_or_aborted(bool done, uint32_t words)
{
    if (!done) {
        struct fault fault = access_fault();

        reply.header.status = BLOOMGATE_SERIAL_STATUS_ABORTED;
        reply.header.words = 0;
        append(&reply, fault.address);
        append(&reply, fault.status);
        append(&reply, words);
    }
    return done;
}

static bool read_words(uint32_t offset, uint32_t words)
{
    reply.header.words = 0;
    for (uint32_t i = 0; i < words; i++) {
        uint32_t word;

        if (!done_or_aborted(access_read(BLOOMGATE_BASE_ADDRESS + offset + 4 * i, &word), i))
            return false;
        append(&reply, word);
    }
    return true;
}

static void write_words(uint32_t offset, const uint32_t *words, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (!done_or_aborted(access_write(BLOOMGATE_BASE_ADDRESS + offset + 4 * i, words[i]), i))
            return;
}

static bool is_good(const struct frame *request)
{
    const uint32_t *payload = request->payload;
    uint32_t words = request->header.words;

    switch (request->header.operation) {
    case BLOOMGATE_SERIAL_OPERATION_READ:
        return words == 2 && in_window(payload[0], payload[1]);
    case BLOOMGATE_SERIAL_OPERATION_WRITE:
        return words >= 2 && in_window(payload[0], words - 1);
    case BLOOMGATE_SERIAL_OPERATION_POLL:
        return words == 5 && in_window(payload[0], payload[1]) && payload[4] >= 1 &&
               payload[4] <= BLOOMGATE_SERIAL_MAX_POLLS;
    default:
        return false;
    }
}

static void execute(const struct frame *request)
{
    const uint32_t *payload = request->payload;
    enum bloomgate_pl_state state;

    if (!is_good(request)) {
        begin_reply(&reply, request, BLOOMGATE_SERIAL_STATUS_BAD_REQUEST);
        return;
    }
    state = fabric_open();
    if (state != BLOOMGATE_PL_STATE_READY) {
        begin_reply(&reply, request, BLOOMGATE_SERIAL_STATUS_PL_CLOSED);
        append(&reply, state);
        return;
    }
    begin_reply(&reply, request, BLOOMGATE_SERIAL_STATUS_OK);
    switch (request->header.operation) {
    case BLOOMGATE_SERIAL_OPERATION_READ:
        read_words(payload[0], payload[1]);
        break;
    case BLOOMGATE_SERIAL_OPERATION_WRITE:
        write_words(payload[0], payload + 1, request->header.words - 1u);
        break;
    case BLOOMGATE_SERIAL_OPERATION_POLL:
        for (uint32_t i = 0; i < payload[4]; i++)
            if (!read_words(payload[0], payload[1]) || (reply.payload[0] & payload[2]) == payload[3])
                break;
        break;
    }
    fabric_close();
}

bool protocol_in_session(void)
{
    return session.open;
}

void protocol_forget(void)
{
    session.open = false;
}

void protocol_request(const struct frame *request)
{
    uint16_t ahead = (uint16_t)(request->header.sequence - session.newest);

    if (request->header.operation == BLOOMGATE_SERIAL_OPERATION_HELLO) {
        hello(request);
        return;
    }
    if (!session.open || request->header.session != session.number) {
        answer(request, BLOOMGATE_SERIAL_STATUS_NO_SESSION);
        return;
    }
    if (ahead > 0x7FFF || (ahead == 0 && !session.replied)) {
        answer(request, BLOOMGATE_SERIAL_STATUS_STALE);
        return;
    }
    if (ahead) {
        execute(request);
        session.newest = request->header.sequence;
        session.replied = true;
    }
    frame_send(&reply, uart_send);
}
