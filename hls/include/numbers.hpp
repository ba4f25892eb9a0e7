// Integer arithmetic that every unit shares, as hwattn/spec/numbers.py: a right shift that drops bits rounds half up, and
// everything that narrows saturates.
#ifndef HWATTN_NUMBERS_HPP
#define HWATTN_NUMBERS_HPP
#include "ap_int.h"
#include "constants.hpp"

namespace hwattn {

constexpr int ceil_div(int value, int divisor) { return (value + divisor - 1) / divisor; }

// floor((value + 2^(shift-1)) / 2^shift); a shift of 0 leaves the value alone. Shifting by one bit less, adding one and shifting by
// one more needs one bit more than the value, however far it shifts.
template <int W>
ap_int<W + 1> round_shift(ap_int<W> value, ap_uint<6> shift) {
#pragma HLS INLINE
    if (shift == 0) return value;
    const ap_int<W> most = value >> (shift - 1);
    return (ap_int<W + 1>(most) + 1) >> 1;
}

// Clip to a signed integer of B bits.
template <int B, int W>
ap_int<B> saturate(ap_int<W> value) {
#pragma HLS INLINE
    const ap_int<W> highest = (ap_int<W>(1) << (B - 1)) - 1;
    const ap_int<W> lowest = -highest - 1;
    return value > highest ? highest : value < lowest ? lowest : value;
}

// saturate((accumulator * multiplier + 2^(shift-1)) >> shift) to B bits, the product kept whole.
template <int B>
ap_int<B> requantize(ap_int<33> accumulator, ap_uint<MULTIPLIER_BITS> multiplier, ap_uint<6> shift) {
#pragma HLS INLINE
    constexpr int PRODUCT = 33 + MULTIPLIER_BITS;
    const ap_int<PRODUCT> product = accumulator * multiplier;
    return saturate<B>(round_shift<PRODUCT>(product, shift));
}

// Number of bits of a value, 0 for 0.
template <int W>
ap_uint<7> bit_length(ap_uint<W> value) {
#pragma HLS INLINE
    ap_uint<7> length = 0;
    for (int bit = 0; bit < W; ++bit) {
#pragma HLS UNROLL
        if (value[bit]) length = bit + 1;
    }
    return length;
}

}  // namespace hwattn

#endif
