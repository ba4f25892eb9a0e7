// The loader: fills resident rows, and copies words into the activation memory, as sim/model/loader.py.
#ifndef HWATTN_LOADER_HPP
#define HWATTN_LOADER_HPP
#include "predicate.hpp"

namespace hwattn {

// Copy words into the activation memory.
template <class C>
void copy(State<C>& state, const Copy& instruction) {
    const unsigned source = instruction.source.to_uint();
    const unsigned target = instruction.target.to_uint();
    const unsigned words = instruction.words.to_uint();
    for (unsigned word = 0; word < words; ++word) {
#pragma HLS PIPELINE II=1
        state.act[target + word] = read_word(state, instruction.memory.to_int(), source + word);
    }
}

// Fill one resident row: n2 x n1 x n0 granules of 2^granule bytes from byte `start` on, one granule per cycle, then zeros. A granule
// divides the word, the base and the strides, so that it lies within one word of the source and of the row.
template <class C>
void load_row(State<C>& state, const Load& instruction, unsigned r, unsigned start) {
    const unsigned slot = instruction.slot.to_uint();
    const unsigned size = 1u << instruction.granule.to_uint();
    unsigned position = 0;
    Word<C::lanes> gathered = zero_word<C::lanes>();
    for (unsigned i2 = 0; i2 < instruction.n2.to_uint(); ++i2) {
        for (unsigned i1 = 0; i1 < instruction.n1.to_uint(); ++i1) {
            const unsigned run = start + i2 * instruction.stride2.to_uint() + i1 * instruction.stride1.to_uint();
            for (unsigned i0 = 0; i0 < instruction.n0.to_uint(); ++i0) {
#pragma HLS PIPELINE II=1
                const unsigned address = run + i0 * size;
                const Word<C::lanes> word = read_word(state, instruction.memory.to_int(), address / C::lanes);
                for (unsigned lane = 0; lane < C::lanes; ++lane) {
#pragma HLS UNROLL
                    const unsigned first = position % C::lanes;
                    if (lane >= first && lane < first + size)
                        gathered.byte[lane] = word.byte[lane - first + address % C::lanes];
                }
                position += size;
                if (position % C::lanes == 0) {
                    state.slots[slot][r][position / C::lanes - 1] = gathered;
                    gathered = zero_word<C::lanes>();
                }
            }
        }
    }
    for (unsigned word = position / C::lanes; word < instruction.words.to_uint(); ++word) {
#pragma HLS PIPELINE II=1
        state.slots[slot][r][word] = gathered;
        gathered = zero_word<C::lanes>();
    }
}

// Fill resident rows of a slot.
template <class C>
void load(State<C>& state, const Load& instruction) {
    const Active where = active(state, instruction);
    if (!where.runs) return;
    const unsigned rows = where.rows(instruction.rows.to_uint());
    const unsigned base = instruction.base.to_uint();
    const unsigned row_stride = instruction.row_stride.to_uint();
    const unsigned wrap = instruction.gather ? 1 : instruction.row_wrap.to_uint();
    const unsigned first = instruction.first.to_uint();
    unsigned step = instruction.row_first.to_uint() % wrap;
    unsigned jump = instruction.row_first.to_uint() / wrap;
    for (unsigned r = 0; r < rows; ++r) {
        unsigned start = base + step * row_stride + jump * instruction.row_jump.to_uint();
        if (instruction.gather) start = base + state.queue_token[where.expert][first + r] * row_stride;
        load_row(state, instruction, r, start);
        if (++step == wrap) {
            step = 0;
            ++jump;
        }
    }
}

}  // namespace hwattn

#endif
