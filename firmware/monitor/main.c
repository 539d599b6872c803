/* The bring-up monitor: a console for a person and a framed protocol for a program, on one UART. */
#include "access.h"
#include "clocks.h"
#include "console.h"
#include "fabric.h"
#include "mmu.h"
#include "protocol.h"
#include "text.h"
#include "uart.h"
#include "zynq.h"

/* A frame of which nothing more comes for so long was cut: its sender waits for an answer, and a person may type. */
#define FRAME_PAUSE_MS 100u

_Noreturn static void serve(void)
{
    static struct frame_receiver receiver;
    uint32_t pause = FRAME_PAUSE_MS * clock_ticks_per_ms(), last = clock_now();

    frame_forget(&receiver);
    for (;;) {
        int byte = uart_receive();

        if (byte < 0) {
            if (receiver.receiving && clock_now() - last > pause)
                frame_forget(&receiver);
            continue;
        }
        last = clock_now();
        if (byte && !receiver.receiving) {
            console_receive((uint8_t)byte);
            continue;
        }
        /* A line that was cut by a frame was not typed by a person. */
        console_forget();
        if (frame_receive(&receiver, (uint8_t)byte))
            protocol_request(&receiver.frame);
    }
}

/* Called by start.S; crash: what ended the run before, 0 at the first one. */
_Noreturn void monitor_main(const struct crash *crash)
{
    bool pending;

    if (!crash) {
        mmu_enable();
        clock_begin();
    } else {
        /* It may have been in the middle of a request. */
        protocol_forget();
        fabric_close();
    }
    uart_begin();
    pending = access_begin();
    print_line("\nbloomgate monitor");
    if (pending)
        print_line("an abort was pending from before the start");
    if (crash) {
        print("restarted after: ");
        print(crash->kind);
        print(", pc ");
        print_hex(crash->pc);
        print(", status ");
        print_hex(crash->status);
        print(", address ");
        print_hex(crash->address);
        print("\n");
    } else {
        console_identify(read32(SLCR_REBOOT_STATUS));
    }
    console_prompt();
    serve();
}
