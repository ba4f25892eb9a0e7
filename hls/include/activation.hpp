// f(x) = ReLU(x) - delta(|x|), delta by a table with linear interpolation (Edge-MoE, section IV-C), as sim/model/post.py.
#ifndef HWATTN_ACTIVATION_HPP
#define HWATTN_ACTIVATION_HPP
#include "state.hpp"

namespace hwattn {

constexpr int ACTIVATION_BITS = ACTIVATION_INPUT_BITS + ACTIVATION_FRACTION - ACTIVATION_INPUT_FRACTION;

// From 12 fraction bits to 19.
inline ap_int<ACTIVATION_BITS> activate(ap_int<ACTIVATION_INPUT_BITS> v, const ActivationTable& table) {
#pragma HLS INLINE
    typedef ap_uint<ACTIVATION_INPUT_BITS - 1> Magnitude;
    const ap_int<ACTIVATION_INPUT_BITS + 1> absolute = v < 0 ? ap_int<ACTIVATION_INPUT_BITS + 1>(-v) : ap_int<ACTIVATION_INPUT_BITS + 1>(v);
    const Magnitude largest = -1;
    const Magnitude magnitude = absolute > largest ? largest : Magnitude(absolute);
    const Magnitude index = magnitude >> table.interval_shift;
    const ap_int<ACTIVATION_BITS> rectified =
        v < 0 ? ap_int<ACTIVATION_BITS>(0) : ap_int<ACTIVATION_BITS>(v) << (ACTIVATION_FRACTION - ACTIVATION_INPUT_FRACTION);
    if (index >= ACTIVATION_INTERVALS) return rectified;
    const int knot = index.to_int();
    const ap_uint<8> offset = magnitude & ((ap_uint<8>(1) << table.interval_shift) - 1);
    constexpr int PRODUCT = ACTIVATION_DIFFERENCE_BITS + 8;
    const ap_int<PRODUCT> product = table.difference[knot] * offset;
    return rectified - (table.value[knot] + round_shift<PRODUCT>(product, table.interval_shift));
}

}  // namespace hwattn

#endif
