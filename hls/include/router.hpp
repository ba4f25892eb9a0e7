// The router: top-k experts of each token, their gate weights, the experts' queues and the metaqueue, as sim/model/router.py.
#ifndef HWATTN_ROUTER_HPP
#define HWATTN_ROUTER_HPP
#include "exponential.hpp"
#include "state.hpp"

namespace hwattn {

typedef ap_int<GATE_SCORE_BITS> GateScore;

// A score from the accumulator columns of the three digit passes.
inline GateScore combine(int32_t c0, int32_t c1, int32_t c2, ap_uint<64> bias) {
#pragma HLS INLINE
    return GateScore(c0) + (GateScore(c1) << 8) + (GateScore(c2) << 16) + GateScore(bias);
}

// The score as a power of two's exponent, 8 fraction bits.
inline ap_int<SCORE_BITS> base2(GateScore score, const Route& instruction) {
#pragma HLS INLINE
    const ap_int<32> narrow = saturate<32>(round_shift<GATE_SCORE_BITS>(score, instruction.score_shift));
    return requantize<SCORE_BITS>(ap_int<33>(narrow), instruction.multiplier, instruction.shift);
}

// A share of the sum, Q0.15, rounded.
inline uint16_t gate_weight(ap_uint<16> p16, ap_uint<24> total) {
#pragma HLS INLINE
    const ap_uint<32> quotient = (ap_uint<32>(p16) << 16) / total;
    const ap_uint<32> rounded = (quotient + 1) >> 1;
    return rounded > GATE_ONE ? uint16_t(GATE_ONE) : uint16_t(rounded.to_uint());
}

// The best expert that is not taken: the highest score, ties to the lower index.
template <class C>
unsigned best_expert(const GateScore (&score)[C::experts], const bool (&taken)[C::experts], unsigned experts) {
    unsigned best = 0;
    bool found = false;
    for (unsigned e = 0; e < experts; ++e) {
#pragma HLS PIPELINE II=1
        if (taken[e] || (found && score[e] <= score[best])) continue;
        best = e;
        found = true;
    }
    return best;
}

// Choose the experts of one token and append it to their queues.
template <class C>
void route_token(State<C>& state, const Route& instruction, unsigned r) {
    const unsigned experts = instruction.experts.to_uint(), k = instruction.k.to_uint();
    GateScore score[C::experts];
    bool taken[C::experts];
    uint8_t chosen[C::experts];
    for (unsigned e = 0; e < experts; ++e) {
#pragma HLS PIPELINE II=1
        const int32_t* columns = state.accumulators[r] + instruction.acc_base.to_uint() + 3 * e;
        score[e] = combine(columns[0], columns[1], columns[2], state.norm[instruction.param_base.to_uint() + e]);
        taken[e] = false;
    }
    for (unsigned rank = 0; rank < k; ++rank) {
        chosen[rank] = uint8_t(best_expert<C>(score, taken, experts));
        taken[chosen[rank]] = true;
    }
    const ap_int<10> highest = ceiling(base2(score[chosen[0]], instruction));
    ap_uint<16> p16[C::experts];
    ap_uint<24> total = 0;
    for (unsigned e = 0; e < experts; ++e) {
#pragma HLS PIPELINE II=1
        p16[e] = probability(distance_of(highest, base2(score[e], instruction)));
        if (!instruction.renormalize || taken[e]) total += p16[e];
    }
    for (unsigned rank = 0; rank < k; ++rank) {
        const unsigned expert = chosen[rank];
        const unsigned place = state.queue_count[expert];
        state.queue_token[expert][place] = uint16_t(instruction.token.to_uint() + r);
        state.queue_gate[expert][place] = gate_weight(p16[expert], total);
        state.queue_count[expert] = uint16_t(place + 1);
    }
}

// Route a tile of tokens.
template <class C>
void route(State<C>& state, const Route& instruction) {
    if (instruction.clear)
        for (int e = 0; e < C::experts; ++e) state.queue_count[e] = 0;
    for (unsigned r = 0; r < instruction.rows.to_uint(); ++r) route_token(state, instruction, r);
    if (!instruction.last) return;
    unsigned length = 0;
    for (int e = 0; e < C::experts; ++e) {
#pragma HLS PIPELINE II=1
        if (state.queue_count[e]) state.metaqueue[length++] = uint8_t(e);
    }
    state.metaqueue_length = uint16_t(length);
}

}  // namespace hwattn

#endif
