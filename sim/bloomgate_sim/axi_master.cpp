// An AXI3 master in the place of M_AXI_GP0 and a memory in that of S_AXI_ACP, around the gateware that Yosys has written
// as C++ (CXXRTL).
//
// A clock cycle is one evaluation with a rising edge: it computes the outputs from the state before the edge and the
// inputs, and the state after the edge, which commit() then makes current. The falling edge changes nothing and is left
// out, which halves the work. All this needs a design without combinational loops; evaluation says whether it is one.
//
// Handshakes are those of IHI 0022 A3.2: VALID is held with its payload until READY, and waits for nothing else.

#include "axi_master.h"
#include "axi_memory.hpp"
#include "pause.hpp"

#include "bloomgate_design.cc"
#include "ports.hpp"

#include <cstdio>
#include <deque>
#include <new>
#include <string>
#include <vector>

namespace {

constexpr int RESET_CLOCKS = 8;
// What the Zynq-7000's M_AXI_GP issues (UG585, table 5-5).
constexpr uint32_t MAX_OUTSTANDING = 8;
constexpr uint32_t MAX_BEATS = 16;
constexpr uint32_t PAGE_BYTES = 4096;

// One channel that the gateware drives: its payload must not change while it waits for READY.
struct Held {
    bool waiting = false;
    uint32_t id = 0, data = 0, response = 0, last = 0;

    bool broken(bool valid, uint32_t now_id, uint32_t now_data, uint32_t now_response, uint32_t now_last) const {
        return waiting && (!valid || id != now_id || data != now_data || response != now_response || last != now_last);
    }
};

} // namespace

struct bloomgate_simulation {
    cxxrtl_design::p_bloomgate design;
    uint64_t clocks = 0;
    int dead = BLOOMGATE_OK;
    std::string message;
    uint32_t refused = 0;
    Pause pauses[5];
    Held held_b, held_r;
    AxiMemory memory;

    // The call in progress.
    bloomgate_burst *bursts = nullptr;
    uint32_t count = 0, head = 0, answered = 0;
    int aw = -1, ar = -1; // bursts whose address is waiting for its handshake
    bool aw_valid = false, ar_valid = false, w_valid = false;
    std::deque<uint32_t> w;                   // bursts with write data to send
    uint32_t w_beat = 0;                      // next beat of w.front()
    std::vector<uint32_t> open_b;             // writes not answered, oldest first
    std::vector<bool> aw_done, w_done;        // by burst
    std::vector<uint32_t> open_r;             // reads whose address was taken, oldest first
    std::vector<uint32_t> r_beat;             // beats received, by burst
    std::vector<bloomgate_burst> own;         // bursts of the calls for whole words

    bool recording = false;
    std::vector<bloomgate_event> events;

    int fail(int status, const std::string &text) {
        message = text + " at clock " + std::to_string(clocks);
        dead = status;
        return status;
    }

    int usage(const std::string &text) {
        message = text;
        return BLOOMGATE_USAGE;
    }

    void drive_aw() {
        const bloomgate_burst &b = bursts[aw];
        set(design.p_s__axi__gp0__awid, b.id);
        set(design.p_s__axi__gp0__awaddr, b.address);
        set(design.p_s__axi__gp0__awlen, b.length - 1);
        set(design.p_s__axi__gp0__awsize, b.size);
        set(design.p_s__axi__gp0__awburst, b.burst);
        set(design.p_s__axi__gp0__awlock, b.lock);
        set(design.p_s__axi__gp0__awcache, b.cache);
        set(design.p_s__axi__gp0__awprot, b.prot);
    }

    void drive_ar() {
        const bloomgate_burst &b = bursts[ar];
        set(design.p_s__axi__gp0__arid, b.id);
        set(design.p_s__axi__gp0__araddr, b.address);
        set(design.p_s__axi__gp0__arlen, b.length - 1);
        set(design.p_s__axi__gp0__arsize, b.size);
        set(design.p_s__axi__gp0__arburst, b.burst);
        set(design.p_s__axi__gp0__arlock, b.lock);
        set(design.p_s__axi__gp0__arcache, b.cache);
        set(design.p_s__axi__gp0__arprot, b.prot);
    }

    void drive_w() {
        const bloomgate_burst &b = bursts[w.front()];
        set(design.p_s__axi__gp0__wid, b.wid);
        set(design.p_s__axi__gp0__wdata, b.data[w_beat]);
        set(design.p_s__axi__gp0__wstrb, b.strobe[w_beat]);
        set(design.p_s__axi__gp0__wlast, b.last >> w_beat & 1);
    }

    // Gives addresses to their channels, in the order of the call.
    void load() {
        while (head < count) {
            const bloomgate_burst &b = bursts[head];
            if (b.barrier && answered != head)
                return;
            if (head - answered >= MAX_OUTSTANDING)
                return;
            if (b.write) {
                if (aw >= 0)
                    return;
                aw = int(head);
                open_b.push_back(head);
                if (b.beats)
                    w.push_back(head);
                else
                    w_done[head] = true;
            } else {
                if (ar >= 0)
                    return;
                ar = int(head);
            }
            head++;
        }
    }

    int take_b(uint32_t id, uint32_t response) {
        for (size_t i = 0; i < open_b.size(); i++) {
            uint32_t index = open_b[i];
            bloomgate_burst &b = bursts[index];
            if ((b.id & 0xFFF) != id)
                continue;
            // A5.3.1: BVALID only after both AW and the last W. An illegal burst may end before all its data is sent.
            if (!aw_done[index] || (!w_done[index] && b.beats == b.length))
                return fail(BLOOMGATE_PROTOCOL, "B came before its burst was complete");
            b.response[0] = response;
            b.response_clock = clocks;
            b.answered = 1;
            answered++;
            open_b.erase(open_b.begin() + long(i));
            return BLOOMGATE_OK;
        }
        return fail(BLOOMGATE_PROTOCOL, "B with an ID that has no write burst: " + std::to_string(id));
    }

    int take_r(uint32_t id, uint32_t data, uint32_t response, uint32_t last) {
        for (size_t i = 0; i < open_r.size(); i++) {
            uint32_t index = open_r[i];
            bloomgate_burst &b = bursts[index];
            if ((b.id & 0xFFF) != id)
                continue;
            uint32_t beat = r_beat[index]++;
            b.data[beat] = data;
            b.response[beat] = response;
            b.data_clock[beat] = clocks;
            if (bool(last) != (beat + 1 == b.length))
                return fail(BLOOMGATE_PROTOCOL, "RLAST on the wrong beat");
            if (last) {
                b.response_clock = clocks;
                b.answered = 1;
                answered++;
                open_r.erase(open_r.begin() + long(i));
            }
            return BLOOMGATE_OK;
        }
        return fail(BLOOMGATE_PROTOCOL, "R with an ID that has no read burst: " + std::to_string(id));
    }

    // One clock.
    int clock() {
        load();
        if (aw >= 0 && !aw_valid && !pauses[BLOOMGATE_AW].now()) {
            aw_valid = true;
            drive_aw();
        }
        if (ar >= 0 && !ar_valid && !pauses[BLOOMGATE_AR].now()) {
            ar_valid = true;
            drive_ar();
        }
        if (!w.empty() && !w_valid && !pauses[BLOOMGATE_W].now()) {
            w_valid = true;
            drive_w();
        }
        bool bready = !pauses[BLOOMGATE_B].now();
        bool rready = !pauses[BLOOMGATE_R].now();
        set(design.p_s__axi__gp0__awvalid, aw_valid);
        set(design.p_s__axi__gp0__arvalid, ar_valid);
        set(design.p_s__axi__gp0__wvalid, w_valid);
        set(design.p_s__axi__gp0__bready, bready);
        set(design.p_s__axi__gp0__rready, rready);
        drive_memory(design, memory.drive());

        set(design.p_clk, 1);
        set(design.prev_p_clk, 0);
        if (!design.eval())
            return fail(BLOOMGATE_PROTOCOL, "the gateware has a combinational loop");
        bool aw_taken = aw_valid && get(design.p_s__axi__gp0__awready);
        bool ar_taken = ar_valid && get(design.p_s__axi__gp0__arready);
        bool w_taken = w_valid && get(design.p_s__axi__gp0__wready);
        bool bvalid = get(design.p_s__axi__gp0__bvalid);
        bool rvalid = get(design.p_s__axi__gp0__rvalid);
        int status = BLOOMGATE_OK;
        if (bvalid || held_b.waiting) {
            uint32_t id = get(design.p_s__axi__gp0__bid), response = get(design.p_s__axi__gp0__bresp);
            if (held_b.broken(bvalid, id, 0, response, 0))
                return fail(BLOOMGATE_PROTOCOL, "B changed before it was taken");
            held_b = Held{!bready, id, 0, response, 0};
            if (bready)
                status = take_b(id, response);
        }
        if (rvalid || held_r.waiting) {
            uint32_t id = get(design.p_s__axi__gp0__rid), data = get(design.p_s__axi__gp0__rdata);
            uint32_t response = get(design.p_s__axi__gp0__rresp), last = get(design.p_s__axi__gp0__rlast);
            if (held_r.broken(rvalid, id, data, response, last))
                return fail(BLOOMGATE_PROTOCOL, "R changed before it was taken");
            held_r = Held{!rready, id, data, response, last};
            if (rready && status == BLOOMGATE_OK)
                status = take_r(id, data, response, last);
        }
        if (aw_taken) {
            bursts[aw].address_clock = clocks;
            aw_done[aw] = true;
            aw_valid = false;
            aw = -1;
        }
        if (ar_taken) {
            bursts[ar].address_clock = clocks;
            open_r.push_back(uint32_t(ar));
            ar_valid = false;
            ar = -1;
        }
        if (w_taken) {
            bloomgate_burst &b = bursts[w.front()];
            b.data_clock[w_beat] = clocks;
            w_valid = false;
            if (++w_beat == b.beats) {
                w_done[w.front()] = true;
                w.pop_front();
                w_beat = 0;
            }
        }
        if (recording && get(design.p_probe))
            events.push_back({clocks, get(design.p_probe)});
        memory.sample(sample_memory(design));
        if (status == BLOOMGATE_OK && !memory.broken.empty())
            status = fail(BLOOMGATE_PROTOCOL, memory.broken);
        design.commit();
        clocks++;
        return status;
    }

    void power_up() {
        set(design.p_rst, 1);
        for (int i = 0; i < RESET_CLOCKS; i++)
            clock();
        set(design.p_rst, 0);
        clocks = 0;
        dead = BLOOMGATE_OK;
    }

    int step(uint64_t cycles) {
        for (uint64_t i = 0; dead == BLOOMGATE_OK && i < cycles; i++)
            clock();
        return dead;
    }

    int run(bloomgate_burst *list, uint32_t length, uint64_t limit) {
        if (dead != BLOOMGATE_OK)
            return dead;
        for (uint32_t i = 0; i < length; i++) {
            if (list[i].length < 1 || list[i].length > MAX_BEATS)
                return usage("length must be 1 to 16 beats, not " + std::to_string(list[i].length));
            if (list[i].write && list[i].beats > MAX_BEATS)
                return usage("beats must be at most 16, not " + std::to_string(list[i].beats));
            list[i].answered = 0;
        }
        bursts = list;
        count = length;
        head = answered = 0;
        aw_done.assign(length, false);
        w_done.assign(length, false);
        r_beat.assign(length, 0);
        uint64_t end = clocks + limit;
        int status = BLOOMGATE_OK;
        // Data that an illegal burst has left over is sent, too: it belongs to the bus, not to the answer.
        while (status == BLOOMGATE_OK && (answered < count || !w.empty())) {
            if (clocks >= end) {
                uint32_t stuck = 0;
                while (stuck < count && bursts[stuck].answered)
                    stuck++;
                char text[120];
                if (stuck < count)
                    snprintf(text, sizeof text, "no answer within %llu clocks to the %s burst at 0x%08X",
                             (unsigned long long)limit, bursts[stuck].write ? "write" : "read",
                             bursts[stuck].address);
                else
                    snprintf(text, sizeof text, "write data not taken within %llu clocks", (unsigned long long)limit);
                status = fail(BLOOMGATE_TIMEOUT, text);
                break;
            }
            status = clock();
        }
        bursts = nullptr;
        count = 0;
        head = answered = 0;
        return status;
    }

    // Whole words, in either direction.
    int words(bool write, uint32_t address, const uint32_t *source, uint32_t *target, uint32_t length,
              uint64_t limit) {
        if (address % 4)
            return usage("the address of a word must be a multiple of 4, not " + std::to_string(address));
        own.clear();
        for (uint32_t done = 0; done < length;) {
            uint32_t here = address + done * 4;
            uint32_t beats = (PAGE_BYTES - here % PAGE_BYTES) / 4;
            beats = beats < MAX_BEATS ? beats : MAX_BEATS;
            beats = beats < length - done ? beats : length - done;
            bloomgate_burst b = {};
            b.write = write;
            // Consecutive IDs, so that the answers to outstanding bursts can be told apart.
            b.id = b.wid = uint32_t(own.size()) % MAX_OUTSTANDING;
            b.address = here;
            b.length = b.beats = beats;
            b.size = 2;
            b.burst = 1;
            b.last = 1u << (beats - 1);
            for (uint32_t i = 0; i < beats; i++) {
                b.data[i] = write ? source[done + i] : 0;
                b.strobe[i] = 0xF;
            }
            own.push_back(b);
            done += beats;
        }
        int status = run(own.data(), uint32_t(own.size()), limit);
        if (status != BLOOMGATE_OK)
            return status;
        uint32_t done = 0;
        for (const bloomgate_burst &b : own) {
            for (uint32_t i = 0; i < (write ? 1 : b.length); i++) {
                // EXOKAY would be wrong, too: nothing here is exclusive.
                if (b.response[i] != 0 && status == BLOOMGATE_OK) {
                    status = b.response[i] == 3 ? BLOOMGATE_DECERR : BLOOMGATE_SLVERR;
                    refused = b.address + 4 * i;
                }
                if (!write)
                    target[done++] = b.data[i];
            }
        }
        return status;
    }

    int poll(uint32_t address, uint32_t *target, uint32_t length, uint32_t mask, uint32_t value, uint32_t attempts,
             uint32_t interval, uint64_t limit) {
        uint64_t end = clocks + limit;
        for (uint32_t i = 0; i < attempts; i++) {
            if (i && step(interval) != BLOOMGATE_OK)
                return dead;
            int status = words(false, address, nullptr, target, length, end > clocks ? end - clocks : 0);
            if (status != BLOOMGATE_OK)
                return status;
            if ((target[0] & mask) == value)
                return BLOOMGATE_OK;
        }
        return BLOOMGATE_NO_MATCH;
    }
};

AxiMemory &memory_of(bloomgate_simulation *simulation) { return simulation->memory; }

int usage_of(bloomgate_simulation *simulation, const std::string &message) {
    return message.empty() ? BLOOMGATE_OK : simulation->usage(message);
}

extern "C" {

bloomgate_simulation *bloomgate_create(void) {
    try {
        bloomgate_simulation *simulation = new bloomgate_simulation;
        simulation->power_up();
        return simulation;
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
}

void bloomgate_destroy(bloomgate_simulation *simulation) { delete simulation; }

uint64_t bloomgate_clocks(const bloomgate_simulation *simulation) { return simulation->clocks; }

int bloomgate_interrupt(bloomgate_simulation *simulation) {
    // Outputs are as of the last rising edge; without one, an evaluation only brings them up to date.
    set(simulation->design.prev_p_clk, 1);
    simulation->design.eval();
    return int(get(simulation->design.p_interrupt));
}

void bloomgate_record(bloomgate_simulation *simulation, int on) {
    simulation->recording = on;
    simulation->events.clear();
}

uint32_t bloomgate_recorded(const bloomgate_simulation *simulation, bloomgate_event *events, uint32_t room) {
    uint32_t count = uint32_t(simulation->events.size());
    for (uint32_t i = 0; i < count && i < room; i++)
        events[i] = simulation->events[i];
    return count;
}

const char *bloomgate_message(const bloomgate_simulation *simulation) { return simulation->message.c_str(); }

uint32_t bloomgate_refused_address(const bloomgate_simulation *simulation) { return simulation->refused; }

int bloomgate_pause(bloomgate_simulation *simulation, int channel, uint32_t chance, uint64_t seed) {
    if (channel < BLOOMGATE_AW || channel > BLOOMGATE_R)
        return simulation->usage("there is no channel " + std::to_string(channel));
    return usage_of(simulation, simulation->pauses[channel].set(chance, seed));
}

int bloomgate_step(bloomgate_simulation *simulation, uint64_t clocks) { return simulation->step(clocks); }

int bloomgate_run(bloomgate_simulation *simulation, bloomgate_burst *bursts, uint32_t count, uint64_t limit) {
    return simulation->run(bursts, count, limit);
}

int bloomgate_write(bloomgate_simulation *simulation, uint32_t address, const uint32_t *words, uint32_t count,
                    uint64_t limit) {
    return simulation->words(true, address, words, nullptr, count, limit);
}

int bloomgate_read(bloomgate_simulation *simulation, uint32_t address, uint32_t *words, uint32_t count,
                   uint64_t limit) {
    return simulation->words(false, address, nullptr, words, count, limit);
}

int bloomgate_poll(bloomgate_simulation *simulation, uint32_t address, uint32_t *words, uint32_t count,
                   uint32_t mask, uint32_t value, uint32_t attempts, uint32_t interval, uint64_t limit) {
    return simulation->poll(address, words, count, mask, value, attempts, interval, limit);
}

} // extern "C"
