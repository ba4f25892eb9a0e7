// Powers of two with a fraction: the exponential of the softmax and of the router, as `probabilities` of sim/model/softmax.py.
#ifndef HWATTN_EXPONENTIAL_HPP
#define HWATTN_EXPONENTIAL_HPP
#include "numbers.hpp"
#include "tables.hpp"

namespace hwattn {

// ceil of a score with 8 fraction bits.
inline ap_int<10> ceiling(ap_int<SCORE_BITS> score) {
#pragma HLS INLINE
    return -(ap_int<SCORE_BITS + 1>(-score) >> SCORE_FRACTION_BITS);
}

// 2^16 * 2^-(distance / 256), at most 65535, for the distance of a score from the maximum, 8 fraction bits: a table and a shift.
inline ap_uint<16> probability(ap_uint<17> distance) {
#pragma HLS INLINE
    const ap_uint<9> whole = distance >> SCORE_FRACTION_BITS;
    const ap_uint<SCORE_FRACTION_BITS> fraction = distance;
    if (whole >= VANISHED) return 0;
    const ap_int<19> shifted = round_shift<18>(ap_int<18>(EXPONENTIAL[fraction.to_int()]), whole);
    return shifted > PROBABILITY_MAX ? ap_uint<16>(PROBABILITY_MAX) : ap_uint<16>(shifted);
}

// Distance of a score from the running maximum, an integer that no visible score exceeds.
inline ap_uint<17> distance_of(ap_int<10> maximum, ap_int<SCORE_BITS> score) {
#pragma HLS INLINE
    return (ap_int<18>(maximum) << SCORE_FRACTION_BITS) - score;
}

}  // namespace hwattn

#endif
