// The simulator's memory without the gateware, one clock per call; see test_axi_memory.py.
#include "axi_memory.hpp"

struct bloomgate_simulation {
    AxiMemory memory;
    std::string message;
};

AxiMemory &memory_of(bloomgate_simulation *simulation) { return simulation->memory; }

int usage_of(bloomgate_simulation *simulation, const std::string &message) {
    simulation->message = message;
    return message.empty() ? BLOOMGATE_OK : BLOOMGATE_USAGE;
}

extern "C" {

const char *bloomgate_message(const bloomgate_simulation *simulation) { return simulation->message.c_str(); }

bloomgate_simulation *harness_create(void) { return new bloomgate_simulation; }
void harness_destroy(bloomgate_simulation *simulation) { delete simulation; }

// What the memory drives in this clock, in the order of INPUTS of tests/memory_model.py.
void harness_drive(bloomgate_simulation *simulation, uint64_t *inputs) {
    const AxiMemory::Inputs &i = simulation->memory.drive();
    const uint64_t values[] = {i.awready, i.wready, i.bvalid, i.bid,   i.bresp, i.arready,
                               i.rvalid,  i.rid,    i.rdata,  i.rresp, i.rlast};
    for (uint64_t value : values)
        *inputs++ = value;
}

// What the gateware drives, in the order of OUTPUTS there, and both AxUSER; returns what rule it broke.
const char *harness_sample(bloomgate_simulation *simulation, const uint64_t *outputs) {
    const uint64_t *o = outputs;
    AxiMemory::Master master = {};
    for (AxiMemory::Address *channel : {&master.aw, &master.ar}) {
        channel->valid = o[0] != 0;
        channel->id = uint32_t(o[1]);
        channel->address = uint32_t(o[2]);
        channel->length = uint32_t(o[3]);
        channel->size = uint32_t(o[4]);
        channel->burst = uint32_t(o[5]);
        channel->lock = uint32_t(o[6]);
        channel->cache = uint32_t(o[7]);
        channel->prot = uint32_t(o[8]);
        o += 9;
    }
    master.w = {o[0] != 0, uint32_t(o[1]), o[2], uint32_t(o[3]), o[4] != 0};
    master.bready = o[5] != 0;
    master.rready = o[6] != 0;
    master.aw.user = uint32_t(o[7]);
    master.ar.user = uint32_t(o[8]);
    simulation->memory.sample(master);
    return simulation->memory.broken.c_str();
}

} // extern "C"
