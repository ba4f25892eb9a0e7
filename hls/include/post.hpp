// The post-processing unit: requantization, activation by table, second scaling, saturation, and the ways of writing the result, as
// sim/model/post.py and sim/model/writer.py.
#ifndef HWATTN_POST_HPP
#define HWATTN_POST_HPP
#include "activation.hpp"
#include "predicate.hpp"
#include "reciprocal.hpp"

namespace hwattn {

// Requantize to 16 bits, or to 18 bits and through the activation.
inline ap_int<ACTIVATION_BITS> stage1(
    ap_int<33> biased, Scaling scaling, bool activation, const ActivationTable& table) {
#pragma HLS INLINE
    if (activation)
        return activate(requantize<ACTIVATION_INPUT_BITS>(biased, scaling.multiplier, scaling.shift), table);
    return requantize<RESULT_BITS>(biased, scaling.multiplier, scaling.shift);
}

// Scale by m2 / 2^s2, or by a gate weight; Stage2::NONE leaves a 16-bit value alone.
inline ap_int<RESULT_BITS> stage2(ap_int<ACTIVATION_BITS> v, const Post& instruction, uint16_t gate) {
#pragma HLS INLINE
    if (instruction.stage2 == Stage2::CONSTANT) return requantize<RESULT_BITS>(v, instruction.m2, instruction.s2);
    if (instruction.stage2 == Stage2::GATE) return requantize<RESULT_BITS>(v, gate, GATE_SHIFT);
    return v;
}

// What the rows of a command have of their own: gate weight, division by the softmax sum, and the place of the result.
template <class C>
struct PostRows {
    uint16_t gate[C::rows];
    uint16_t index[C::rows];
    Scaling scaling[C::rows];
};

template <class C>
PostRows<C> post_rows(const State<C>& state, const Post& instruction, const Active& where, unsigned rows) {
    PostRows<C> found;
    const unsigned first = instruction.first.to_uint();
    for (unsigned r = 0; r < rows; ++r) {
        const bool queued = instruction.expert_enable != 0;
        found.gate[r] = queued ? state.queue_gate[where.expert][first + r] : uint16_t(0);
        found.index[r] = instruction.scatter ? state.queue_token[where.expert][first + r] : uint16_t(r);
        if (instruction.row_scale)
            found.scaling[r] =
                reciprocal(state.softmax[instruction.state.to_uint()][r].total, instruction.m2, instruction.s2);
    }
    return found;
}

// One group of `lanes` columns: from the accumulators, column by column and `post_lanes` rows per cycle, into a transposed tile.
template <class C>
void post_group(
    const State<C>& state,
    const Post& instruction,
    const PostRows<C>& own,
    unsigned rows,
    unsigned group,
    unsigned params,
    int16_t (&tile)[C::rows][C::lanes]) {
    const unsigned columns = instruction.columns.to_uint();
    for (unsigned lane = 0; lane < C::lanes; ++lane) {
        const unsigned column = group * C::lanes + lane;
        for (unsigned first = 0; first < rows; first += C::post_lanes) {
#pragma HLS PIPELINE II=1
            for (unsigned e = 0; e < C::post_lanes; ++e) {
#pragma HLS UNROLL
                const unsigned r = first + e;
                if (r >= rows) continue;
                tile[r][lane] = 0;
                if (column >= columns) continue;
                ap_int<33> accumulator = state.accumulators[r][instruction.acc_base.to_uint() + column];
                Scaling scaling = own.scaling[r];
                if (!instruction.row_scale) {
                    const Parameter& parameter = state.param[params + column];
                    accumulator += parameter.bias;
                    scaling.multiplier = parameter.multiplier;
                    scaling.shift = parameter.shift;
                }
                const ap_int<ACTIVATION_BITS> v =
                    stage1(accumulator, scaling, instruction.activation != 0, state.table);
                tile[r][lane] = stage2(v, instruction, own.gate[r]).to_int();
            }
        }
    }
}

// Write a group token-major: as int8, as int16, or as int16 added to what is there, saturating.
template <class C>
void write_rows(
    State<C>& state,
    const Post& instruction,
    const PostRows<C>& own,
    unsigned rows,
    unsigned group,
    const int16_t (&tile)[C::rows][C::lanes]) {
    const unsigned base = instruction.base.to_uint(), stride = instruction.stride.to_uint();
    for (unsigned r = 0; r < rows; ++r) {
#pragma HLS PIPELINE II=2
        const unsigned row = base + own.index[r] * stride;
        if (instruction.format == Format::INT8) {
            Word<C::lanes> word;
            for (int lane = 0; lane < C::lanes; ++lane) {
#pragma HLS UNROLL
                word.byte[lane] = saturate<8>(ap_int<16>(tile[r][lane])).to_int();
            }
            state.act[row + group] = word;
            continue;
        }
        Word<C::lanes> low = state.act[row + 2 * group];
        Word<C::lanes> high = state.act[row + 2 * group + 1];
        for (int lane = 0; lane < C::lanes; ++lane) {
#pragma HLS UNROLL
            const ap_int<16> old = high.byte[lane] * 256 + uint8_t(low.byte[lane]);
            ap_int<17> sum = tile[r][lane];
            if (instruction.format == Format::RESIDUAL) sum += old;
            const int value = saturate<16>(sum).to_int();
            low.byte[lane] = int8_t(value & 255);
            high.byte[lane] = int8_t(value >> 8);
        }
        state.act[row + 2 * group] = low;
        state.act[row + 2 * group + 1] = high;
    }
}

// Write a group's columns as rows (V^T): column c, row r at byte base + c * stride * lanes + r.
template <class C>
void write_columns(
    State<C>& state,
    const Post& instruction,
    unsigned rows,
    unsigned group,
    const int16_t (&tile)[C::rows][C::lanes]) {
    const unsigned base = instruction.base.to_uint(), stride = instruction.stride.to_uint();
    const unsigned columns = instruction.columns.to_uint();
    for (unsigned lane = 0; lane < C::lanes; ++lane) {
        const unsigned column = group * C::lanes + lane;
        for (unsigned r = 0; r < rows; ++r) {
#pragma HLS PIPELINE II=1
            if (column >= columns) continue;
            const unsigned address = base + column * stride * C::lanes + r;
            state.act[address / C::lanes].byte[address % C::lanes] =
                saturate<8>(ap_int<16>(tile[r][lane])).to_int();
        }
    }
}

// Requantize accumulator columns, and write them.
template <class C>
void post(State<C>& state, const Post& instruction) {
    const Active where = active(state, instruction);
    if (!where.runs) return;
    const unsigned rows = where.rows(instruction.rows.to_uint());
    const unsigned groups = ceil_div(instruction.columns.to_int(), C::lanes);
    const unsigned params = instruction.param_base.to_uint() + where.expert * instruction.expert_stride.to_uint();
    const PostRows<C> own = post_rows(state, instruction, where, rows);
    for (unsigned group = 0; group < groups; ++group) {
        int16_t tile[C::rows][C::lanes];
#pragma HLS ARRAY_PARTITION variable=tile type=complete dim=0
        post_group(state, instruction, own, rows, group, params, tile);
        if (instruction.format == Format::COLUMNS)
            write_columns(state, instruction, rows, group, tile);
        else
            write_rows(state, instruction, own, rows, group, tile);
    }
}

}  // namespace hwattn

#endif
