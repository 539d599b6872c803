// The ports of the gateware, as CXXRTL gives them. To be included after the design.
#ifndef BLOOMGATE_PORTS_HPP
#define BLOOMGATE_PORTS_HPP

#include "axi_memory.hpp"

template <typename Number = uint32_t, size_t Bits>
Number get(const cxxrtl::value<Bits> &port) {
    return port.template get<Number>();
}

template <typename Number = uint32_t, size_t Bits>
Number get(const cxxrtl::wire<Bits> &port) {
    return port.curr.template get<Number>();
}

template <size_t Bits>
void set(cxxrtl::value<Bits> &port, uint32_t value) {
    // A port takes only the bits that it has, as a wire does.
    port.template set<uint32_t>(Bits < 32 ? value & ((uint32_t(1) << (Bits % 32)) - 1) : value);
}

inline void drive_memory(cxxrtl_design::p_bloomgate &design, const AxiMemory::Inputs &inputs) {
    set(design.p_m__axi__memory__awready, inputs.awready);
    set(design.p_m__axi__memory__wready, inputs.wready);
    set(design.p_m__axi__memory__arready, inputs.arready);
    set(design.p_m__axi__memory__bvalid, inputs.bvalid);
    set(design.p_m__axi__memory__bid, inputs.bid);
    set(design.p_m__axi__memory__bresp, inputs.bresp);
    set(design.p_m__axi__memory__rvalid, inputs.rvalid);
    set(design.p_m__axi__memory__rid, inputs.rid);
    set(design.p_m__axi__memory__rresp, inputs.rresp);
    set(design.p_m__axi__memory__rlast, inputs.rlast);
    design.p_m__axi__memory__rdata.set<uint64_t>(inputs.rdata);
}

// Payloads only with their VALID, since most clocks have none.
inline AxiMemory::Master sample_memory(const cxxrtl_design::p_bloomgate &design) {
    AxiMemory::Master master = {};
    if (get(design.p_m__axi__memory__arvalid))
        master.ar = {true,
                     get(design.p_m__axi__memory__arid),
                     get(design.p_m__axi__memory__araddr),
                     get(design.p_m__axi__memory__arlen),
                     get(design.p_m__axi__memory__arsize),
                     get(design.p_m__axi__memory__arburst),
                     get(design.p_m__axi__memory__arlock),
                     get(design.p_m__axi__memory__arcache),
                     get(design.p_m__axi__memory__arprot),
                     get(design.p_m__axi__memory__aruser)};
    if (get(design.p_m__axi__memory__awvalid))
        master.aw = {true,
                     get(design.p_m__axi__memory__awid),
                     get(design.p_m__axi__memory__awaddr),
                     get(design.p_m__axi__memory__awlen),
                     get(design.p_m__axi__memory__awsize),
                     get(design.p_m__axi__memory__awburst),
                     get(design.p_m__axi__memory__awlock),
                     get(design.p_m__axi__memory__awcache),
                     get(design.p_m__axi__memory__awprot),
                     get(design.p_m__axi__memory__awuser)};
    if (get(design.p_m__axi__memory__wvalid))
        master.w = {true, get(design.p_m__axi__memory__wid), get<uint64_t>(design.p_m__axi__memory__wdata),
                    get(design.p_m__axi__memory__wstrb), get(design.p_m__axi__memory__wlast) != 0};
    master.bready = get(design.p_m__axi__memory__bready);
    master.rready = get(design.p_m__axi__memory__rready);
    return master;
}

#endif
