#include "selftest.h"

#include "access.h"
#include "bloomgate_registers.h"
#include "text.h"

/* Reads of a register that must change soon. The slowest, the scrub of the largest filter, takes 65536 clock cycles of
 * the fabric, and a read at least 15 of them: 160 ns at 100 MHz (UG585 table 22-8). */
#define MAX_POLLS 5000u

#define FIELD(word, name) (((word) & BLOOMGATE_##name##_MASK) >> BLOOMGATE_##name##_SHIFT)
#define CONTROL(name) BLOOMGATE_CONTROL_##name
#define SLOT(name) (bloomgate_slot_page(0) + BLOOMGATE_SLOT_##name)

/* Whether every access was answered. After the first that was not, no more are made. */
static bool answered;

static uint32_t get(uint32_t offset)
{
    uint32_t word = 0;

    answered = answered && access_read(BLOOMGATE_BASE_ADDRESS + offset, &word);
    return word;
}

static void put(uint32_t offset, uint32_t word)
{
    answered = answered && access_write(BLOOMGATE_BASE_ADDRESS + offset, word);
}

static bool wait_for(uint32_t offset, uint32_t mask, uint32_t value)
{
    for (uint32_t i = 0; answered && i < MAX_POLLS; i++)
        if ((get(offset) & mask) == value)
            return answered;
    return false;
}

static bool report(bool good, const char *what)
{
    print(good ? "  ok      " : "  FAILED  ");
    print(what);
    if (!answered) {
        struct fault fault = access_fault();

        print(": ");
        print(fault_name(fault.status));
        print(" at ");
        print_hex(fault.address);
    }
    print("\n");
    return good;
}

bool selftest_identify(void)
{
    uint32_t version, geometry, capacity;

    answered = true;
    if (get(CONTROL(IDENTIFICATION)) != BLOOMGATE_IDENTIFICATION)
        return report(false, "identification");
    version = get(CONTROL(VERSION));
    geometry = get(CONTROL(GEOMETRY));
    capacity = get(CONTROL(CAPACITY));
    print("bloomgate ");
    print_decimal(FIELD(version, CONTROL_VERSION_MAJOR));
    print(".");
    print_decimal(FIELD(version, CONTROL_VERSION_MINOR));
    print(".");
    print_decimal(FIELD(version, CONTROL_VERSION_PATCH));
    print(", K=");
    print_decimal(FIELD(geometry, CONTROL_GEOMETRY_K));
    print(" D=");
    print_decimal(1u << FIELD(geometry, CONTROL_GEOMETRY_LOG2_D));
    print(", slots: ");
    print_decimal(FIELD(capacity, CONTROL_CAPACITY_SLOTS));
    print(", keys: ");
    print_decimal(FIELD(capacity, CONTROL_CAPACITY_APERTURE_DEPTH));
    print("\n");
    if (!answered || FIELD(version, CONTROL_VERSION_MAJOR) != BLOOMGATE_VERSION_MAJOR)
        return report(false, "version");
    return true;
}

/* A step of the self-test: one request, with a snapshot so many commits back, and the verdict that it must get. At most
 * one key a set; keys are small enough for every geometry, and 0 is none. */
struct step {
    const char *what;
    uint32_t snapshot, read, write, commute;
    uint32_t flags; /* of VERDICT, without REQUEST */
    uint32_t count; /* of the timestamp, when it is timestamped */
    uint32_t key;   /* on CONFLICT */
};

#define COMMIT (BLOOMGATE_SLOT_VERDICT_DONE_MASK | BLOOMGATE_SLOT_VERDICT_COMMITTED_MASK)
#define TIMESTAMPED (COMMIT | BLOOMGATE_SLOT_VERDICT_TIMESTAMPED_MASK)
#define ABORT(reason) (BLOOMGATE_SLOT_VERDICT_DONE_MASK | (uint32_t)(reason) << BLOOMGATE_SLOT_VERDICT_REASON_SHIFT)

static const struct step steps[] = {
    {"a commit gets the first timestamp", 0, 1, 2, 0, TIMESTAMPED, 1, 0},
    {"a read of what it wrote conflicts", 0, 2, 3, 0, ABORT(BLOOMGATE_REASON_CONFLICT), 0, 2},
    {"not with its own snapshot", 1, 2, 0, 0, COMMIT, 0, 0},
    {"writes do not conflict", 0, 0, 2, 0, TIMESTAMPED, 2, 0},
    {"commutes do not conflict", 0, 0, 0, 3, TIMESTAMPED, 3, 0},
    {"a read of a commute conflicts", 2, 3, 0, 0, ABORT(BLOOMGATE_REASON_CONFLICT), 0, 3},
    {"a snapshot of the future is refused", 4, 1, 1, 0, ABORT(BLOOMGATE_REASON_BAD_REQUEST), 0, 0},
};

static const struct step old = {
    "a snapshot from before it is refused", 3, 1, 1, 0, ABORT(BLOOMGATE_REASON_ROLLOVER), 0, 0,
};

static bool run(const struct step *step, uint32_t epoch, uint32_t request)
{
    struct bloomgate_verdict verdict;
    uint32_t number = request << BLOOMGATE_SLOT_VERDICT_REQUEST_SHIFT;

    if (step->read)
        put(SLOT(READ_APERTURE), step->read);
    if (step->write)
        put(SLOT(WRITE_APERTURE), step->write);
    if (step->commute)
        put(SLOT(COMMUTE_APERTURE), step->commute);
    put(SLOT(SNAPSHOT_EPOCH), epoch);
    put(SLOT(SNAPSHOT_COUNT), step->snapshot);
    put(SLOT(SUBMIT), request);
    if (!wait_for(SLOT(VERDICT), BLOOMGATE_SLOT_VERDICT_REQUEST_MASK | BLOOMGATE_SLOT_VERDICT_DONE_MASK,
                  number | BLOOMGATE_SLOT_VERDICT_DONE_MASK))
        return false;
    verdict.verdict = get(SLOT(VERDICT));
    verdict.timestamp_epoch = get(SLOT(TIMESTAMP_EPOCH));
    verdict.timestamp_count = get(SLOT(TIMESTAMP_COUNT));
    verdict.conflict_key = get(SLOT(CONFLICT_KEY));
    if (!answered || verdict.verdict != (step->flags | number))
        return false;
    if (step->flags == TIMESTAMPED && (verdict.timestamp_epoch != epoch || verdict.timestamp_count != step->count))
        return false;
    return !step->key || verdict.conflict_key == step->key;
}

static bool reset(void)
{
    uint32_t before = get(CONTROL(EPOCH));

    put(CONTROL(INITIAL_EPOCH), 0);
    put(CONTROL(COMMAND), BLOOMGATE_CONTROL_COMMAND_SOFT_RESET_MASK);
    if (!wait_for(CONTROL(EPOCH), 0xFFFFFFFFu, before + 1))
        return false;
    return wait_for(CONTROL(STATUS), BLOOMGATE_CONTROL_STATUS_READY_MASK, BLOOMGATE_CONTROL_STATUS_READY_MASK);
}

bool selftest(void)
{
    const uint32_t count = sizeof steps / sizeof *steps;
    uint32_t epoch, request;
    bool good;

    if (!selftest_identify())
        return false;
    if (!report(reset(), "a reset steps the epoch"))
        return false;
    epoch = get(CONTROL(EPOCH));
    put(SLOT(DISCARD), 0);
    /* Another number than the slot shows from before. */
    request = FIELD(get(SLOT(VERDICT)), SLOT_VERDICT_REQUEST);
    good = true;
    /* Each step builds on those before it. */
    for (uint32_t i = 0; good && i < count; i++)
        good = report(run(&steps[i], epoch, ++request & 0xFFFF), steps[i].what);
    return good && report(get(CONTROL(COUNT)) == 3 && answered, "three commits were counted") &&
           report(reset(), "a second reset steps the epoch") &&
           report(run(&old, epoch, ++request & 0xFFFF), old.what);
}
