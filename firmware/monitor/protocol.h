/* The monitor's side of the serial: device: what it answers to a request. */
#ifndef PROTOCOL_H
#define PROTOCOL_H

#include <stdbool.h>

#include "frame.h"

/* Whether a program has begun a session that nobody has ended. */
bool protocol_in_session(void);

/* End the session, so that nothing that was begun in it is executed twice. */
void protocol_forget(void);

/* Execute a request, unless it is the newest one sent again, and send the reply. */
void protocol_request(const struct frame *request);

#endif
