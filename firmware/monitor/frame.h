/* Frames on a line of bytes. host/bloomgate/serial_protocol.py says what they are. */
#ifndef FRAME_H
#define FRAME_H

#include <stdbool.h>
#include <stdint.h>

#include "bloomgate_serial.h"

/* Room for the body of the longest frame, with its CRC. */
struct frame {
    struct bloomgate_serial_header header;
    uint32_t payload[BLOOMGATE_SERIAL_MAX_PAYLOAD_WORDS + 1];
};

/* The bytes since the last zero. Begin with all members 0. */
struct frame_receiver {
    /* Beginning with a zero byte, until a frame is whole: its bytes are not text. */
    bool receiving;
    bool too_long;
    uint32_t length;
    union {
        uint8_t bytes[BLOOMGATE_SERIAL_FRAME_BYTES];
        struct frame frame;
    };
};

/* Take a byte, of which the first must be 0. True if it completes a frame, which is then in the receiver until the next
 * byte is taken. */
bool frame_receive(struct frame_receiver *receiver, uint8_t byte);

/* Forget what was received of a frame: no more comes of it. */
void frame_forget(struct frame_receiver *receiver);

/* Send a frame, byte by byte. Writes its CRC behind the payload. */
void frame_send(struct frame *frame, void (*send)(uint8_t byte));

#endif
