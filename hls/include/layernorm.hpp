// The LayerNorm unit: exact integer sums, then a reciprocal square root by table and one Newton step, as sim/model/layernorm.py.
#ifndef HWATTN_LAYERNORM_HPP
#define HWATTN_LAYERNORM_HPP
#include "state.hpp"
#include "tables.hpp"

namespace hwattn {

// What normalizes a row: z = (D * x - total) * significand / 2^shift.
struct RowScale {
    ap_int<28> total;
    ap_uint<16> significand;
    ap_uint<6> shift;
};

// significand / 2^shift is about 2^11 / sqrt(variance).
inline RowScale reciprocal_square_root(ap_uint<VARIANCE_BITS> variance) {
#pragma HLS INLINE
    RowScale scale;
    const ap_uint<6> left = (VARIANCE_BITS - bit_length<VARIANCE_BITS>(variance)).to_uint() & ~1u;
    const ap_uint<VARIANCE_BITS> normal = variance << left;
    const ap_uint<18> top = normal >> 36;
    const ap_uint<16> guess = RECIPROCAL_SQUARE_ROOT[(top >> 10).to_int() - RSQRT_FIRST];
    const ap_uint<18> square = (guess * guess) >> 14;
    const ap_int<38> three = ap_int<38>(3) << 34;
    const ap_int<20> correction = (three - square * top + (1 << 17)) >> 18;
    const ap_int<38> significand = (guess * correction + (1 << 16)) >> 17;
    scale.total = 0;
    const ap_uint<16> largest = -1;
    scale.significand = significand > largest ? largest : ap_uint<16>(significand);
    scale.shift = 31 - (left >> 1);
    return scale;
}

// Element c of an int16 vector at word `base`: for each group of `lanes` elements a word of low bytes, then one of high bytes.
template <class C>
int16_t element16(const Word<C::lanes>* memory, unsigned base, unsigned c) {
#pragma HLS INLINE
    const unsigned word = base + c / C::lanes * 2, lane = c % C::lanes;
    return int16_t(memory[word + 1].byte[lane] * 256 + uint8_t(memory[word].byte[lane]));
}

// First pass over a row, `norm_lanes` elements per cycle.
template <class C>
RowScale row_scale(const State<C>& state, const Norm& instruction, unsigned source) {
    const unsigned dim = instruction.dim.to_uint();
    ap_int<28> total = 0;
    ap_uint<42> squares = 0;
    for (unsigned first = 0; first < dim; first += C::norm_lanes) {
#pragma HLS PIPELINE II=1
        for (unsigned lane = 0; lane < C::norm_lanes; ++lane) {
#pragma HLS UNROLL
            if (first + lane >= dim) continue;
            const ap_int<16> x = element16<C>(state.act, source, first + lane);
            if (!instruction.zero_mean) total += x;
            squares += ap_uint<32>(x * x);
        }
    }
    const ap_uint<13> count = dim;
    const ap_uint<VARIANCE_BITS> variance = count * squares - ap_uint<56>(total * total) + instruction.epsilon;
    RowScale scale = reciprocal_square_root(variance);
    scale.total = total;
    return scale;
}

// z = (x - mean) / sqrt(variance + eps) with 11 fraction bits; the mean is 0 with `zero_mean`.
inline ap_int<NORMAL_BITS> normalize(ap_int<16> x, ap_uint<13> dim, const RowScale& scale) {
#pragma HLS INLINE
    const ap_int<30> centred = dim * x - scale.total;
    const ap_int<47> product = centred * scale.significand;
    return saturate<NORMAL_BITS>(round_shift<47>(product, scale.shift));
}

// z * gamma + beta, of an entry of the norm memory.
inline ap_int<36> scaled(ap_int<NORMAL_BITS> z, ap_uint<64> entry) {
#pragma HLS INLINE
    const ap_int<16> gamma = ap_uint<16>(entry.range(47, 32));
    const ap_int<32> beta = ap_uint<32>(entry.range(31, 0));
    return z * gamma + beta;
}

// Clip to +-GATE_LIMIT.
inline ap_int<16> gate_operand(ap_int<37> u) {
#pragma HLS INLINE
    if (u > GATE_LIMIT) return GATE_LIMIT;
    if (u < -GATE_LIMIT) return -GATE_LIMIT;
    return u;
}

// LayerNorm of int16 vectors into int8, and with `wide` into gate digits.
template <class C>
void norm(State<C>& state, const Norm& instruction) {
    const unsigned dim = instruction.dim.to_uint();
    const unsigned groups = ceil_div(dim, C::lanes);
    const unsigned param_base = instruction.param_base.to_uint();
    for (unsigned r = 0; r < instruction.rows.to_uint(); ++r) {
        const unsigned source = instruction.source.to_uint() + r * instruction.source_stride.to_uint();
        const unsigned target = instruction.target.to_uint() + r * instruction.target_stride.to_uint();
        const unsigned wide = instruction.wide_target.to_uint() + r * instruction.wide_stride.to_uint();
        const RowScale scale = row_scale(state, instruction, source);
        for (unsigned first = 0; first < groups * C::lanes; first += C::norm_lanes) {
#pragma HLS PIPELINE II=1
            for (unsigned lane = 0; lane < C::norm_lanes; ++lane) {
#pragma HLS UNROLL
                const unsigned c = first + lane;
                int8_t out = 0, low = 0, high = 0;
                if (c < dim) {
                    const ap_int<NORMAL_BITS> z =
                        normalize(element16<C>(state.act, source, c), instruction.dim, scale);
                    const ap_int<36> u = scaled(z, state.norm[param_base + c]);
                    const ap_int<16> digits = gate_operand(round_shift<36>(u, instruction.shift - 8));
                    out = saturate<8>(round_shift<36>(u, instruction.shift)).to_int();
                    low = int8_t(digits.to_int() & 255);
                    high = int8_t((digits.to_int() - low) >> 8);
                }
                state.act[target + c / C::lanes].byte[c % C::lanes] = out;
                if (instruction.wide) {
                    state.act[wide + c / C::lanes].byte[c % C::lanes] = low;
                    state.act[wide + groups + c / C::lanes].byte[c % C::lanes] = high;
                }
            }
        }
    }
}

}  // namespace hwattn

#endif
