// The division of a row by its softmax sum, as `reciprocal` of sim/model/post.py.
#ifndef HWATTN_RECIPROCAL_HPP
#define HWATTN_RECIPROCAL_HPP
#include "numbers.hpp"

namespace hwattn {

// multiplier / 2^shift, to requantize with.
struct Scaling {
    ap_uint<MULTIPLIER_BITS> multiplier;
    ap_uint<6> shift;
};

// About m2 / 2^s2 / total; 0 where the sum is zero.
inline Scaling reciprocal(ap_uint<32> total, ap_uint<MULTIPLIER_BITS> m2, ap_uint<6> s2) {
    Scaling scaling;
    scaling.multiplier = 0;
    scaling.shift = 1;
    if (total == 0) return scaling;
    const ap_uint<6> width = bit_length<32>(total);
    const ap_uint<32> normal = total << (32 - width).to_int();
    const ap_uint<49> one = ap_uint<49>(1) << 48;
    const ap_uint<18> quotient = one / normal;
    const ap_uint<18> rounded = (quotient + 1) >> 1;
    const ap_uint<MULTIPLIER_BITS> inverse = rounded > RECIPROCAL_MAX ? ap_uint<18>(RECIPROCAL_MAX) : rounded;
    const ap_uint<32> product = m2 * inverse;
    const bool large = product[31];
    const ap_int<34> multiplier = round_shift<33>(ap_int<33>(product), large ? 16 : 15);
    scaling.multiplier = multiplier > RECIPROCAL_MAX ? ap_int<34>(RECIPROCAL_MAX) : multiplier;
    scaling.shift = s2 + width - (large ? 1 : 0);
    return scaling;
}

}  // namespace hwattn

#endif
