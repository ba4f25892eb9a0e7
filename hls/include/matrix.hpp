// The matrix unit: streamed rows past resident rows, one accumulator column for each streamed row, as sim/model/matrix.py.
#ifndef HWATTN_MATRIX_HPP
#define HWATTN_MATRIX_HPP
#include "predicate.hpp"

namespace hwattn {

// An accumulator shifted right by the growth of its row's maximum, rounded.
inline int32_t rescale(int32_t old, uint8_t growth) {
#pragma HLS INLINE
    return round_shift<32>(ap_int<32>(old), growth).to_int();
}

// The pass over the low bytes of a 16-bit operand: shifted right by 8 bits, rounded.
inline int32_t low_pass(int32_t dot) {
#pragma HLS INLINE
    return round_shift<32>(ap_int<32>(dot), LOW_PASS_SHIFT).to_int();
}

// `lanes` multiply-accumulates of one resident row: 9-bit signed (int8 or uint8) x int8.
template <int LANES>
int32_t dot_word(const Word<LANES>& resident, bool resident_unsigned, const Word<LANES>& streamed) {
#pragma HLS INLINE
    const int16_t mask = resident_unsigned ? 0xff : -1;
    int32_t sum = 0;
    for (int lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
        const int16_t left = int16_t(resident.byte[lane] & mask);
        sum += int32_t(left) * streamed.byte[lane];
    }
    return sum;
}

// Stream n1 * n0 rows past the resident rows of a slot; rows * lanes multiply-accumulates per cycle from one word per cycle.
template <class C>
void matmul(State<C>& state, const Matmul& instruction) {
    const Active where = active(state, instruction);
    if (!where.runs) return;
    const unsigned slot = instruction.slot.to_uint();
    const unsigned words = instruction.words.to_uint();
    const unsigned n0 = instruction.n0.to_uint();
    const unsigned columns = n0 * instruction.n1.to_uint();
    const unsigned acc_base = instruction.acc_base.to_uint();
    const bool is_unsigned = instruction.resident_unsigned != 0;
    const SoftmaxRow* growth = state.softmax[instruction.state.to_uint()];
    unsigned outer = instruction.base.to_uint() + where.expert * instruction.expert_stride.to_uint();
    unsigned inner = outer;
    unsigned j0 = 0;
    for (unsigned column = 0; column < columns; ++column) {
        int32_t dot[C::rows];
#pragma HLS ARRAY_PARTITION variable=dot type=complete
        for (unsigned word = 0; word < words; ++word) {
#pragma HLS PIPELINE II=1
            const Word<C::lanes> streamed = read_word(state, instruction.memory.to_int(), inner + word);
            for (int r = 0; r < C::rows; ++r) {
#pragma HLS UNROLL
                const int32_t sum = dot_word<C::lanes>(state.slots[slot][r][word], is_unsigned, streamed);
                dot[r] = word == 0 ? sum : dot[r] + sum;
                if (word + 1 == words) {
                    int32_t& accumulator = state.accumulators[r][acc_base + column];
                    const int32_t old = instruction.rescale ? rescale(accumulator, growth[r].growth) : accumulator;
                    const int32_t added = instruction.low_pass ? low_pass(dot[r]) : dot[r];
                    accumulator = instruction.accumulate ? added + old : added;
                }
            }
        }
        inner += instruction.stride0.to_uint();
        if (++j0 == n0) {
            j0 = 0;
            outer += instruction.stride1.to_uint();
            inner = outer;
        }
    }
}

}  // namespace hwattn

#endif
