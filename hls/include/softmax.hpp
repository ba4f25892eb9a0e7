// The softmax unit: a block of scores to base-2 probabilities, with an integer running maximum and a running sum; the division is
// deferred. As sim/model/softmax.py.
#ifndef HWATTN_SOFTMAX_HPP
#define HWATTN_SOFTMAX_HPP
#include "exponential.hpp"
#include "state.hpp"

namespace hwattn {

// State of a row before its first key.
inline SoftmaxRow fresh_row() {
#pragma HLS INLINE
    SoftmaxRow row;
    row.maximum = SENTINEL;
    row.growth = 0;
    row.total = 0;
    return row;
}

// The state of a row once the maximum over a block is known, its sum shifted by the growth; `first` starts afresh.
inline SoftmaxRow raise_maximum(SoftmaxRow row, int16_t block_maximum, bool first) {
#pragma HLS INLINE
    if (first) row = fresh_row();
    const int16_t raised = block_maximum > row.maximum ? block_maximum : row.maximum;
    const int growth = raised - row.maximum < GROWTH_MAX ? raised - row.maximum : GROWTH_MAX;
    row.total = round_shift<33>(ap_int<33>(row.total), growth).to_uint();
    row.growth = first ? 0 : growth;
    row.maximum = raised;
    return row;
}

// Add a block's probabilities to the sum, which saturates at 32 bits.
inline uint32_t add_probabilities(uint32_t total, uint32_t added) {
#pragma HLS INLINE
    const uint32_t sum = total + added;
    return sum < total ? uint32_t(SUM_MAX) : sum;
}

// A probability in 8 bits: min(255, (p16 + 128) >> 8).
inline uint8_t byte8(ap_uint<16> p16) {
#pragma HLS INLINE
    const ap_uint<9> rounded = (ap_uint<17>(p16) + 128) >> 8;
    return rounded > 255 ? 255 : rounded.to_uint();
}

// Whether row r sees key j of a block: low + slope_low * r <= j < high + slope_high * r.
inline bool visible(const Softmax& instruction, int r, int key) {
#pragma HLS INLINE
    const int low = instruction.mask_low.to_int() + (instruction.slope_low ? r : 0);
    const int high = instruction.mask_high.to_int() + (instruction.slope_high ? r : 0);
    return low <= key && key < high;
}

// Write the probability of one key into the resident slot, with p16 its low byte into the slot after it.
template <class C>
void write_probability(State<C>& state, const Softmax& instruction, int r, int key, ap_uint<16> p16) {
#pragma HLS INLINE
    const unsigned slot = instruction.slot.to_uint();
    const unsigned word = key / C::lanes, lane = key % C::lanes;
    state.slots[slot][r][word].byte[lane] = instruction.p16 ? int8_t(p16.to_uint() >> 8) : int8_t(byte8(p16));
    if (instruction.p16) state.slots[slot + 1][r][word].byte[lane] = int8_t(p16.to_uint() & 255);
}

// Two passes over the block, `softmax_lanes` rows at a time: the maximum, then one exponential per score.
template <class C>
void softmax(State<C>& state, const Softmax& instruction) {
    const int rows = instruction.rows.to_int(), keys = instruction.keys.to_int();
    const int padded = ceil_div(keys, C::lanes) * C::lanes;
    const unsigned acc_base = instruction.acc_base.to_uint();
    SoftmaxRow* states = state.softmax[instruction.state.to_uint()];
    for (int group = 0; group < rows; group += C::softmax_lanes) {
        int16_t highest[C::softmax_lanes];
        SoftmaxRow raised[C::softmax_lanes];
        uint32_t added[C::softmax_lanes];
#pragma HLS ARRAY_PARTITION variable=highest type=complete
#pragma HLS ARRAY_PARTITION variable=raised type=complete
#pragma HLS ARRAY_PARTITION variable=added type=complete
        for (int key = 0; key < keys; ++key) {
#pragma HLS PIPELINE II=1
            for (int lane = 0; lane < C::softmax_lanes; ++lane) {
#pragma HLS UNROLL
                const int r = group + lane;
                if (key == 0) highest[lane] = SENTINEL;
                if (r >= rows || !visible(instruction, r, key)) continue;
                const ap_int<SCORE_BITS> score = requantize<SCORE_BITS>(
                    ap_int<33>(state.accumulators[r][acc_base + key]), instruction.multiplier, instruction.shift);
                const int16_t ceil_score = ceiling(score).to_int();
                if (ceil_score > highest[lane]) highest[lane] = ceil_score;
            }
        }
        for (int lane = 0; lane < C::softmax_lanes; ++lane) {
#pragma HLS UNROLL
            added[lane] = 0;
            if (group + lane < rows)
                raised[lane] = raise_maximum(states[group + lane], highest[lane], instruction.first != 0);
        }
        for (int key = 0; key < padded; ++key) {
#pragma HLS PIPELINE II=1
            for (int lane = 0; lane < C::softmax_lanes; ++lane) {
#pragma HLS UNROLL
                const int r = group + lane;
                if (r >= rows) continue;
                ap_uint<16> p16 = 0;
                if (key < keys && visible(instruction, r, key)) {
                    const ap_int<SCORE_BITS> score = requantize<SCORE_BITS>(
                        ap_int<33>(state.accumulators[r][acc_base + key]), instruction.multiplier, instruction.shift);
                    p16 = probability(distance_of(raised[lane].maximum, score));
                }
                added[lane] += p16.to_uint();
                write_probability(state, instruction, r, key, p16);
            }
        }
        for (int lane = 0; lane < C::softmax_lanes; ++lane) {
#pragma HLS UNROLL
            if (group + lane >= rows) continue;
            raised[lane].total = add_probabilities(raised[lane].total, added[lane]);
            states[group + lane] = raised[lane];
        }
    }
}

}  // namespace hwattn

#endif
