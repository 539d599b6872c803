#include "console.h"

#include "access.h"
#include "clocks.h"
#include "fabric.h"
#include "protocol.h"
#include "selftest.h"
#include "text.h"
#include "uart.h"
#include "watchdog.h"
#include "zynq.h"

#define MAX_PEEK 256u

static char line[80];
static uint32_t length;

struct name {
    uint32_t value;
    const char *name;
};

static const char *lookup(const struct name *names, uint32_t count, uint32_t value, const char *otherwise)
{
    for (uint32_t i = 0; i < count; i++)
        if (names[i].value == value)
            return names[i].name;
    return otherwise;
}

/* PSS_IDCODE bits 16:12, UG585 appendix B.28. */
static const struct name parts[] = {{0x02, "xc7z010"}, {0x07, "xc7z020"}};
static const struct name resets[] = {
    {REBOOT_SWDT, "the system watchdog"},     {REBOOT_AWDT0, "the watchdog of processor 0"},
    {REBOOT_AWDT1, "the watchdog of processor 1"}, {REBOOT_SOFTWARE, "software"},
    {REBOOT_DEBUGGER, "the debugger"},        {REBOOT_PIN, "the reset pin"},
    {REBOOT_POWER_ON, "power-on"},
};
#define COUNT(names) (sizeof(names) / sizeof *(names))

static void print_mhz(uint32_t hz)
{
    print_decimal(divide(hz + 500000, 1000000));
    print_line(" MHz");
}

void console_identify(uint32_t reboot_status)
{
    uint32_t idcode = read32(SLCR_PSS_IDCODE);
    enum bloomgate_pl_state state;

    print("part: ");
    print(lookup(parts, COUNT(parts), idcode >> 12 & 0x1F, "unknown"));
    print(", PSS_IDCODE ");
    print_hex(idcode);
    print("\nlast reset by: ");
    if (watchdog_has_bitten(reboot_status))
        print("the system watchdog, during an access that had no answer");
    else
        print(lookup(resets, COUNT(resets), reboot_status & (0x7Fu << 16), "unknown"));
    print(", REBOOT_STATUS ");
    print_hex(reboot_status);
    print("\nFCLK0: ");
    print_mhz(clock_fclk0_hz());
    state = fabric_open();
    print("fabric: ");
    print_line(fabric_state_name(state));
    if (state == BLOOMGATE_PL_STATE_READY) {
        selftest_identify();
        fabric_close();
    }
}

static void print_fault(void)
{
    struct fault fault = access_fault();

    print("aborted: ");
    print(fault_name(fault.status));
    print(", address ");
    print_hex(fault.address);
    print(", DFSR ");
    print_hex(fault.status);
    print("\n");
}

/* Open what a peek or poke at an address needs; false if it must not be made. */
static bool open_address(uint32_t address)
{
    enum bloomgate_pl_state state;

    if (address < GP_FIRST || address > GP_LAST) {
        watchdog_arm();
        return true;
    }
    state = fabric_open();
    if (state == BLOOMGATE_PL_STATE_READY)
        return true;
    print("refused, fabric: ");
    print_line(fabric_state_name(state));
    return false;
}

static void close_address(uint32_t address)
{
    if (address < GP_FIRST || address > GP_LAST)
        watchdog_disarm();
    else
        fabric_close();
}

static bool parse_address(char **arguments, uint32_t *address)
{
    if (parse_number(next_word(arguments), address) && *address % 4 == 0)
        return true;
    print_line("the address must be a number that is a multiple of 4");
    return false;
}

static void command_peek(char *arguments)
{
    uint32_t address, word, count = 1;
    char *text;

    if (!parse_address(&arguments, &address))
        return;
    text = next_word(&arguments);
    if (*text && (!parse_number(text, &count) || count < 1 || count > MAX_PEEK)) {
        print_line("the count must be a number from 1 to 256");
        return;
    }
    for (; count; count--, address += 4) {
        if (!open_address(address))
            return;
        bool done = access_read(address, &word);
        close_address(address);
        if (!done) {
            print_fault();
            return;
        }
        print_hex(address);
        print(": ");
        print_hex(word);
        print("\n");
    }
}

static void command_poke(char *arguments)
{
    uint32_t address, word;

    if (!parse_address(&arguments, &address))
        return;
    if (!parse_number(next_word(&arguments), &word)) {
        print_line("the value must be a number of 32 bits");
        return;
    }
    if (!open_address(address))
        return;
    bool done = access_write(address, word);
    close_address(address);
    if (!done)
        print_fault();
}

static void command_test(char *arguments)
{
    enum bloomgate_pl_state state = fabric_open();

    (void)arguments;
    if (state != BLOOMGATE_PL_STATE_READY) {
        print("refused, fabric: ");
        print_line(fabric_state_name(state));
        return;
    }
    bool good = selftest();
    fabric_close();
    print_line(good ? "self-test passed" : "self-test FAILED");
}

static void command_identify(char *arguments)
{
    (void)arguments;
    console_identify(read32(SLCR_REBOOT_STATUS));
}

static void command_connect(char *arguments)
{
    (void)arguments;
    fabric_connect();
    print("fabric: ");
    print_line(fabric_state_name(fabric_state()));
}

static void command_bite(char *arguments)
{
    (void)arguments;
    print_line("the watchdog resets the system in two seconds");
    uart_flush();
    watchdog_arm();
    for (;;)
        ;
}

static void command_reboot(char *arguments)
{
    (void)arguments;
    uart_flush();
    slcr_write(SLCR_PSS_RST_CTRL, SLCR_PSS_RST_SOFT);
    for (;;)
        ;
}

/* What a person says to have the line back. */
static const char take_back[] = "console";

static void command_console(char *arguments)
{
    (void)arguments;
    protocol_forget();
}

static void command_help(char *arguments);

static const struct {
    const char *name, *help;
    void (*run)(char *arguments);
} commands[] = {
    {"help", "help                  this list", command_help},
    {"id", "id                    processor, last reset, fabric and core", command_identify},
    {"connect", "connect               level shifters on and resets off, if a bitstream is loaded", command_connect},
    {"peek", "peek ADDRESS [COUNT]  read words", command_peek},
    {"poke", "poke ADDRESS VALUE    write a word", command_poke},
    {"test", "test                  self-test of the core, which it resets", command_test},
    {"bite", "bite                  let the watchdog bite, as after an access without an answer", command_bite},
    {take_back, "console               have the line back from a program, whose session ends", command_console},
    {"reboot", "reboot                reset the system", command_reboot},
};

static void command_help(char *arguments)
{
    (void)arguments;
    for (uint32_t i = 0; i < COUNT(commands); i++)
        print_line(commands[i].help);
}

static void run(void)
{
    char *arguments = line, *name = next_word(&arguments);

    if (!*name)
        return;
    /* On a bad line a byte more or less can make a command of what lies between two frames: none is obeyed there. */
    if (protocol_in_session() && !equal(name, take_back)) {
        print_line("a program uses this line; say console to end its session");
        return;
    }
    for (uint32_t i = 0; i < COUNT(commands); i++)
        if (equal(name, commands[i].name)) {
            commands[i].run(arguments);
            return;
        }
    print_line("no such command; say help");
}

void console_prompt(void)
{
    print("monitor> ");
}

void console_receive(uint8_t byte)
{
    if (byte == '\r' || byte == '\n') {
        print("\n");
        line[length] = '\0';
        length = 0;
        run();
        console_prompt();
    } else if (byte == '\b' || byte == 0x7F) {
        if (length) {
            length--;
            print("\b \b");
        }
    } else if (byte >= ' ' && byte < 0x7F && length < sizeof line - 1) {
        line[length++] = (char)byte;
        uart_send(byte);
    }
}

void console_forget(void)
{
    length = 0;
}
