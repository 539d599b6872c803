// Memory behind the gateware's AXI3 master port: answers its bursts and checks that they are what AXI3 and the ACP
// allow (IHI 0022, UG585 3.5.1).

#include "axi_memory.hpp"

#include <algorithm>
#include <cstdio>

namespace {

constexpr uint32_t BEAT_BYTES = 8;
constexpr uint32_t PAGE_BYTES = 4096;
constexpr uint32_t OKAY = 0, SLVERR = 2, DECERR = 3;
// What every access to the ACP has to say of itself.
constexpr uint32_t SIZE = 3, INCR = 1, CACHE = 0xF, PROT = 0, USER = 1, ALL_STROBES = 0xFF;

bool same(const AxiMemory::Address &a, const AxiMemory::Address &b) {
    return a.id == b.id && a.address == b.address && a.length == b.length && a.size == b.size && a.burst == b.burst &&
           a.lock == b.lock && a.cache == b.cache && a.prot == b.prot && a.user == b.user;
}

bool same(const AxiMemory::Data &a, const AxiMemory::Data &b) {
    return a.id == b.id && a.data == b.data && a.strobe == b.strobe && a.last == b.last;
}

std::string hexadecimal(uint64_t value) {
    char text[24];
    snprintf(text, sizeof text, "0x%08llX", (unsigned long long)value);
    return text;
}

} // namespace

// -- One clock --------------------------------------------------------------------------------------------------------

const AxiMemory::Inputs &AxiMemory::drive() {
    inputs.awready = !pauses[BLOOMGATE_AW].now();
    inputs.wready = !pauses[BLOOMGATE_W].now();
    inputs.arready = !pauses[BLOOMGATE_AR].now();
    // A beat that was offered and not taken is offered again, whatever the dice say.
    bool withheld = pauses[BLOOMGATE_R].now() && !current_read;
    sums.open_clocks += !withheld;
    sums.clocks++;
    if (!withheld)
        drive_read();
    if (!(pauses[BLOOMGATE_B].now() && !current_write))
        drive_write();
    return inputs;
}

void AxiMemory::sample(const Master &master) {
    check_held(master);
    if (master.ar.valid && inputs.arready) {
        check_address("AR", master.ar);
        reads.push_back(Burst{master.ar.id, master.ar.address, master.ar.length + 1, now + 1 + latency, 0, {}});
        sums.read_bursts++;
        sums.most_reads = std::max<uint64_t>(sums.most_reads, reads.size());
    }
    if (master.aw.valid && inputs.awready) {
        check_address("AW", master.aw);
        addressed.push_back(Burst{master.aw.id, master.aw.address, master.aw.length + 1, 0, 0, {}});
        sums.write_bursts++;
    }
    if (master.w.valid && inputs.wready)
        take_data(master.w);
    match_data();
    if (inputs.rvalid && master.rready) {
        sums.read_beats++;
        if (++current_read->delivered == current_read->beats)
            reads.remove_if([this](const Burst &burst) { return &burst == current_read; });
        current_read = nullptr;
        inputs.rvalid = false;
    }
    if (inputs.bvalid && master.bready) {
        written.remove_if([this](const Burst &burst) { return &burst == current_write; });
        current_write = nullptr;
        inputs.bvalid = false;
    }
    now++;
}

// IHI 0022 A3.2.1: VALID and its payload stay until READY.
void AxiMemory::check_held(const Master &master) {
    if (held_aw.valid && !(master.aw.valid && same(held_aw, master.aw)))
        broken = "AW changed before it was taken";
    if (held_ar.valid && !(master.ar.valid && same(held_ar, master.ar)))
        broken = "AR changed before it was taken";
    if (held_w.valid && !(master.w.valid && same(held_w, master.w)))
        broken = "W changed before it was taken";
    held_aw = master.aw;
    held_ar = master.ar;
    held_w = master.w;
    held_aw.valid &= !inputs.awready;
    held_ar.valid &= !inputs.arready;
    held_w.valid &= !inputs.wready;
}

void AxiMemory::check_address(const char *channel, const Address &a) {
    uint32_t bytes = (a.length + 1) * BEAT_BYTES;
    std::string burst = std::string(channel) + " at " + hexadecimal(a.address);
    if (a.size != SIZE || a.burst != INCR || a.lock != 0)
        broken = burst + " is no INCR of 8-byte beats";
    else if (a.cache != CACHE || a.prot != PROT || a.user != USER)
        broken = burst + " is no coherent, secure access";
    else if (a.address % BEAT_BYTES)
        broken = burst + " is unaligned";
    else if (a.address % PAGE_BYTES + bytes > PAGE_BYTES)
        broken = burst + " crosses 4 KiB with " + std::to_string(a.length + 1) + " beats";
    else if (!place(a.address))
        sums.stray_bursts++;
}

void AxiMemory::take_data(const Data &beat) {
    if (data.empty() || data.back().complete)
        data.push_back(Words{beat.id, false, {}});
    Words &burst = data.back();
    if (beat.id != burst.id)
        broken = "WID changed within a burst";
    else if (beat.strobe != ALL_STROBES)
        broken = "a W beat has partial strobes";
    burst.words.push_back(beat.data);
    burst.complete = beat.last;
    sums.write_beats++;
}

// Data comes in the order of the addresses, one burst after the other.
void AxiMemory::match_data() {
    while (!addressed.empty() && !data.empty()) {
        Burst &burst = addressed.front();
        Words &words = data.front();
        if (words.id != burst.id)
            broken = "WID " + std::to_string(words.id) + " for AWID " + std::to_string(burst.id);
        else if (words.complete ? words.words.size() != burst.beats : words.words.size() >= burst.beats)
            broken = "WLAST on the wrong beat of the burst at " + hexadecimal(burst.address);
        if (!words.complete)
            return;
        burst.words = std::move(words.words);
        burst.ready = now + 1 + latency;
        written.splice(written.end(), addressed, addressed.begin());
        data.pop_front();
    }
}

// -- Answers ----------------------------------------------------------------------------------------------------------

// The oldest burst of an ID; that of the oldest address, or of an ID chosen at random. None if it is not ready yet.
AxiMemory::Burst *AxiMemory::choose(std::list<Burst> &bursts) {
    if (bursts.empty())
        return nullptr;
    if (!reordering)
        return bursts.front().ready <= now ? &bursts.front() : nullptr;
    std::vector<Burst *> ready;
    uint64_t seen = 0;
    for (Burst &burst : bursts) {
        if (!(seen >> burst.id & 1) && burst.ready <= now)
            ready.push_back(&burst);
        seen |= uint64_t(1) << burst.id;
    }
    return ready.empty() ? nullptr : ready[order.next16() % ready.size()];
}

void AxiMemory::drive_read() {
    if (current_read)
        return;
    current_read = choose(reads);
    if (!current_read)
        return;
    uint32_t address = current_read->address + current_read->delivered * BEAT_BYTES;
    inputs.rvalid = true;
    inputs.rid = current_read->id;
    inputs.rresp = response(address);
    // Acquire: what its writer wrote before it is seen by later beats.
    inputs.rdata = inputs.rresp == OKAY ? __atomic_load_n(place(address), __ATOMIC_ACQUIRE) : 0;
    inputs.rlast = current_read->delivered + 1 == current_read->beats;
}

void AxiMemory::drive_write() {
    if (current_write)
        return;
    current_write = choose(written);
    if (!current_write)
        return;
    inputs.bvalid = true;
    inputs.bid = current_write->id;
    inputs.bresp = store(*current_write);
}

// -- Contents ---------------------------------------------------------------------------------------------------------

uint64_t *AxiMemory::place(uint32_t address) const {
    for (const Region &region : regions)
        if (address >= region.base && address < region.end)
            return reinterpret_cast<uint64_t *>(region.data + (address - region.base));
    return nullptr;
}

uint32_t AxiMemory::response(uint32_t address) const {
    for (const Failure &failure : failures)
        if (address >= failure.first && address < failure.end)
            return failure.response;
    return place(address) ? OKAY : DECERR;
}

// Writes a burst, or nothing of it if some of it has an error. Visible with B, not before.
uint32_t AxiMemory::store(const Burst &burst) {
    uint32_t worst = OKAY;
    for (uint32_t beat = 0; beat < burst.beats; beat++)
        worst = std::max(worst, response(burst.address + beat * BEAT_BYTES));
    for (uint32_t beat = 0; worst == OKAY && beat < burst.beats; beat++)
        __atomic_store_n(place(burst.address + beat * BEAT_BYTES), burst.words[beat], __ATOMIC_RELEASE);
    return worst;
}

// -- Requests ---------------------------------------------------------------------------------------------------------

std::string AxiMemory::attach(uint32_t base, void *bytes, uint64_t size) {
    uint64_t end = uint64_t(base) + size;
    if (base % BEAT_BYTES || size % BEAT_BYTES || size == 0 || reinterpret_cast<uintptr_t>(bytes) % BEAT_BYTES)
        return "memory must begin at a multiple of 8, on the bus and in the host, and have a multiple of 8 bytes";
    if (end > uint64_t(1) << 32)
        return "memory must end at or before 2**32, not at " + hexadecimal(end);
    for (const Region &region : regions)
        if (base < region.end && region.base < end)
            return "there is memory at " + hexadecimal(region.base) + " already";
    regions.push_back(Region{base, end, static_cast<uint8_t *>(bytes)});
    return "";
}

std::string AxiMemory::detach(uint32_t base) {
    for (size_t i = 0; i < regions.size(); i++)
        if (regions[i].base == base) {
            regions.erase(regions.begin() + long(i));
            return "";
        }
    return "there is no memory at " + hexadecimal(base);
}

std::string AxiMemory::pause(int channel, uint32_t chance, uint64_t seed) {
    if (channel < BLOOMGATE_AW || channel > BLOOMGATE_R)
        return "there is no channel " + std::to_string(channel);
    return pauses[channel].set(chance, seed);
}

void AxiMemory::reorder(bool on, uint64_t seed) {
    reordering = on;
    order.seed(seed);
}

std::string AxiMemory::fail(uint32_t first, uint64_t end, int code) {
    if (code == int(OKAY)) {
        failures.clear();
        return "";
    }
    if (code != int(SLVERR) && code != int(DECERR))
        return "a response must be 0, 2 or 3, not " + std::to_string(code);
    failures.push_back(Failure{first, end, uint32_t(code)});
    return "";
}

extern "C" {

int bloomgate_memory_attach(bloomgate_simulation *simulation, uint32_t base, void *data, uint64_t size) {
    return usage_of(simulation, memory_of(simulation).attach(base, data, size));
}

int bloomgate_memory_detach(bloomgate_simulation *simulation, uint32_t base) {
    return usage_of(simulation, memory_of(simulation).detach(base));
}

int bloomgate_memory_latency(bloomgate_simulation *simulation, uint32_t clocks) {
    memory_of(simulation).set_latency(clocks);
    return BLOOMGATE_OK;
}

int bloomgate_memory_pause(bloomgate_simulation *simulation, int channel, uint32_t chance, uint64_t seed) {
    return usage_of(simulation, memory_of(simulation).pause(channel, chance, seed));
}

int bloomgate_memory_reorder(bloomgate_simulation *simulation, int on, uint64_t seed) {
    memory_of(simulation).reorder(on, seed);
    return BLOOMGATE_OK;
}

int bloomgate_memory_fail(bloomgate_simulation *simulation, uint32_t first, uint64_t end, int response) {
    return usage_of(simulation, memory_of(simulation).fail(first, end, response));
}

void bloomgate_memory_sums(bloomgate_simulation *simulation, bloomgate_memory_statistics *statistics) {
    *statistics = memory_of(simulation).statistics();
}

} // extern "C"
