// Random hesitation on a channel of a bus.
#ifndef BLOOMGATE_PAUSE_HPP
#define BLOOMGATE_PAUSE_HPP

#include <cstdint>
#include <string>

// xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators").
struct Random {
    uint64_t state = 1;

    // Any seed will do; the state is never 0, which the generator would keep.
    void seed(uint64_t value) { state = value * 2 + 1; }

    uint32_t next16() {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        return uint32_t((state * 0x2545F4914F6CDD1Dull) >> 48);
    }
};

// Decides in each clock whether to hesitate.
struct Pause {
    // With READY or VALID never raised nothing could end.
    static constexpr uint32_t MAX_CHANCE = 65000;

    // Of 65536.
    uint32_t chance = 0;
    Random random;

    // An empty string, or what is wrong with the request.
    std::string set(uint32_t of65536, uint64_t seed) {
        if (of65536 > MAX_CHANCE)
            return "the chance of a pause must be at most 65000 / 65536";
        chance = of65536;
        random.seed(seed);
        return "";
    }

    bool now() { return chance != 0 && random.next16() < chance; }
};

#endif
