// Memory behind the gateware's AXI3 master port, clock by clock. It knows nothing of CXXRTL.
#ifndef BLOOMGATE_AXI_MEMORY_HPP
#define BLOOMGATE_AXI_MEMORY_HPP

#include "axi_memory.h"
#include "pause.hpp"

#include <list>
#include <string>
#include <vector>

class AxiMemory {
  public:
    // AW or AR, as the gateware drives it.
    struct Address {
        bool valid;
        uint32_t id, address, length, size, burst, lock, cache, prot, user;
    };
    // W, as the gateware drives it.
    struct Data {
        bool valid;
        uint32_t id;
        uint64_t data;
        uint32_t strobe;
        bool last;
    };
    // Everything that the gateware drives.
    struct Master {
        Address aw, ar;
        Data w;
        bool bready, rready;
    };
    // Everything that the memory drives; ID and response without VALID mean nothing.
    struct Inputs {
        bool awready = false, wready = false, arready = false;
        bool bvalid = false, rvalid = false, rlast = false;
        uint32_t bid = 0, bresp = 0, rid = 0, rresp = 0;
        uint64_t rdata = 0;
    };

    // What to drive in the clock that begins; once per clock.
    const Inputs &drive();
    // What the gateware drove in this clock. A rule that it broke is in `broken` then.
    void sample(const Master &master);
    std::string broken;

    // See axi_memory.h; an empty string means done, else what is wrong with the request.
    std::string attach(uint32_t base, void *data, uint64_t size);
    std::string detach(uint32_t base);
    std::string pause(int channel, uint32_t chance, uint64_t seed);
    std::string fail(uint32_t first, uint64_t end, int response);
    void set_latency(uint32_t clocks) { latency = clocks; }
    void reorder(bool on, uint64_t seed);
    const bloomgate_memory_statistics &statistics() const { return sums; }

  private:
    struct Region {
        uint64_t base, end;
        uint8_t *data;
    };
    struct Failure {
        uint64_t first, end;
        uint32_t response;
    };
    struct Burst {
        uint32_t id, address, beats;
        // First clock in which an answer may be seen.
        uint64_t ready;
        // Read beats delivered.
        uint32_t delivered;
        // Write data.
        std::vector<uint64_t> words;
    };
    // A burst of write data, perhaps ahead of its address.
    struct Words {
        uint32_t id;
        bool complete;
        std::vector<uint64_t> words;
    };

    void check_held(const Master &master);
    void check_address(const char *channel, const Address &address);
    void take_data(const Data &data);
    void match_data();
    void drive_read();
    void drive_write();
    Burst *choose(std::list<Burst> &bursts);
    uint64_t *place(uint32_t address) const;
    uint32_t response(uint32_t address) const;
    uint32_t store(const Burst &burst);

    uint64_t now = 0;
    uint32_t latency = 0;
    Pause pauses[5];
    bool reordering = false;
    Random order;
    std::vector<Region> regions;
    std::vector<Failure> failures;
    bloomgate_memory_statistics sums = {};

    Inputs inputs;
    // What waited for READY in the clock before, to see whether it changed.
    Address held_aw = {}, held_ar = {};
    Data held_w = {};
    // Lists, whose items stay where they are.
    std::list<Burst> reads;     // unanswered, in the order of their addresses
    std::list<Burst> addressed; // writes whose data is not complete
    std::list<Words> data;      // data that belongs to no address yet
    std::list<Burst> written;   // writes that await their B
    Burst *current_read = nullptr, *current_write = nullptr;
};

// The memory of a simulation.
AxiMemory &memory_of(bloomgate_simulation *simulation);
// Keeps the message for bloomgate_message; returns BLOOMGATE_USAGE, or BLOOMGATE_OK if there is none.
int usage_of(bloomgate_simulation *simulation, const std::string &message);

#endif
