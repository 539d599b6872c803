#include "frame.h"

#define HEADER_BYTES sizeof(struct bloomgate_serial_header)
#define CRC_BYTES 4u
#define CRC_POLYNOMIAL 0xEDB88320u
/* COBS: the longest run, and its length byte, after which no zero is meant. */
#define LONGEST_RUN 254u

_Static_assert(sizeof(struct frame) <= BLOOMGATE_SERIAL_FRAME_BYTES, "a decoded frame is not longer");

static uint32_t crc32(const uint8_t *bytes, uint32_t count)
{
    uint32_t crc = 0xFFFFFFFFu;

    while (count--) {
        crc ^= *bytes++;
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ CRC_POLYNOMIAL : crc >> 1;
    }
    return ~crc;
}

/* Decode COBS in place: the result is never longer. Returns its length, or 0 for what COBS does not write. */
static uint32_t unstuff(uint8_t *bytes, uint32_t length)
{
    uint32_t from = 0, to = 0;

    while (from < length) {
        uint32_t run = bytes[from++];

        if (run == 0 || run - 1 > length - from)
            return 0;
        for (uint32_t i = 1; i < run; i++)
            bytes[to++] = bytes[from++];
        if (run <= LONGEST_RUN && from < length)
            bytes[to++] = 0;
    }
    return to;
}

static bool is_whole(const struct frame_receiver *receiver, uint32_t length)
{
    const struct bloomgate_serial_header *header = &receiver->frame.header;

    if (length < HEADER_BYTES + CRC_BYTES || header->zero || header->words > BLOOMGATE_SERIAL_MAX_PAYLOAD_WORDS ||
        length != HEADER_BYTES + 4u * header->words + CRC_BYTES)
        return false;
    return receiver->frame.payload[header->words] == crc32(receiver->bytes, length - CRC_BYTES);
}

bool frame_receive(struct frame_receiver *receiver, uint8_t byte)
{
    bool whole;

    receiver->receiving = true;
    if (byte) {
        if (receiver->length < sizeof receiver->bytes)
            receiver->bytes[receiver->length++] = byte;
        else
            receiver->too_long = true;
        return false;
    }
    if (!receiver->length)
        return false;
    whole = !receiver->too_long && is_whole(receiver, unstuff(receiver->bytes, receiver->length));
    /* After what was not a frame, this zero may be the one that begins the next. */
    frame_forget(receiver);
    receiver->receiving = !whole;
    return whole;
}

void frame_forget(struct frame_receiver *receiver)
{
    receiver->receiving = false;
    receiver->too_long = false;
    receiver->length = 0;
}

void frame_send(struct frame *frame, void (*send)(uint8_t byte))
{
    const uint8_t *bytes = (const uint8_t *)frame;
    uint32_t length = HEADER_BYTES + 4u * frame->header.words;

    frame->payload[frame->header.words] = crc32(bytes, length);
    length += CRC_BYTES;
    send(0);
    for (uint32_t from = 0;;) {
        uint32_t run = 0;

        while (run < LONGEST_RUN && from + run < length && bytes[from + run])
            run++;
        send((uint8_t)(run + 1));
        for (uint32_t i = 0; i < run; i++)
            send(bytes[from + i]);
        from += run;
        /* The end, or a zero that the next run stands for; a run of full length stands for none. */
        if (run < LONGEST_RUN && from++ >= length)
            break;
    }
    send(0);
}
