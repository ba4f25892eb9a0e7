// Attention alone, as a dataflow of processes in Edge-MoE's manner (arXiv 2305.18691): a tile of `rows` queries stays resident while keys
// and values stream past it once, softmax takes one exponential per score, and no score goes to memory. It computes what the
// machine's instructions compute with the same blocks of keys.
//
// Memory: token-major words of `lanes` bytes, token t's head h at word (t * heads + h) * words, padded with zeros to whole words.
#ifndef HWATTN_ATTENTION_HPP
#define HWATTN_ATTENTION_HPP
#include "hls_stream.h"
#include "matrix.hpp"
#include "reciprocal.hpp"
#include "softmax.hpp"

namespace hwattn {

struct AttentionShape {
    unsigned queries, keys, heads;
};

// Scale of one head's scores (to base 2, 8 fraction bits), and of its result, as Softmax and Post have them.
struct HeadScaling {
    Scaling score, result;
};

// From an entry of memory: score multiplier, score shift, result multiplier, result shift, 16 bits each.
inline HeadScaling head_scaling(uint64_t entry) {
#pragma HLS INLINE
    const ap_uint<64> bits = entry;
    HeadScaling scaling;
    scaling.score.multiplier = bits.range(15, 0);
    scaling.score.shift = bits.range(21, 16);
    scaling.result.multiplier = bits.range(47, 32);
    scaling.result.shift = bits.range(53, 48);
    return scaling;
}

// One kernel. C has the fields of AcceleratorConfig, of which `rows` and `lanes` count here.
template <class C, int HEAD_DIM, int KEY_BLOCK>
struct Attention {
    static constexpr int ROWS = C::rows;
    static constexpr int LANES = C::lanes;
    static constexpr int WORDS = ceil_div(HEAD_DIM, LANES);
    typedef Word<LANES> word_t;

    // What passes between the processes, for all resident rows at once.
    struct Scores {
        int16_t value[ROWS];
    };
    struct Probabilities {
        uint8_t high[ROWS], low[ROWS];
    };
    struct Growth {
        uint8_t value[ROWS];
    };
    struct Totals {
        uint32_t value[ROWS];
    };
    struct Sums {
        int32_t value[LANES];
    };

    static unsigned tiles(const AttentionShape& shape) { return ceil_div(shape.queries, ROWS); }

    // The queries of every tile and head; rows past the last query are zero.
    static void read_queries(const word_t* q, hls::stream<word_t>& queries, AttentionShape shape) {
        for (unsigned tile = 0; tile < tiles(shape); ++tile)
            for (unsigned head = 0; head < shape.heads; ++head)
                for (unsigned r = 0; r < ROWS; ++r)
                    for (unsigned word = 0; word < WORDS; ++word) {
#pragma HLS PIPELINE II=1
                        const unsigned token = tile * ROWS + r;
                        const bool exists = token < shape.queries;
                        queries.write(exists ? q[(token * shape.heads + head) * WORDS + word] : zero_word<LANES>());
                    }
    }

    // All keys, or values, of a head, once for every tile.
    static void read_rows(const word_t* memory, hls::stream<word_t>& rows, AttentionShape shape) {
        for (unsigned tile = 0; tile < tiles(shape); ++tile)
            for (unsigned head = 0; head < shape.heads; ++head)
                for (unsigned key = 0; key < shape.keys; ++key)
                    for (unsigned word = 0; word < WORDS; ++word) {
#pragma HLS PIPELINE II=1
                        rows.write(memory[(key * shape.heads + head) * WORDS + word]);
                    }
    }

    // Scores of all resident rows with one key after the other, in base 2.
    static void score_keys(
        hls::stream<word_t>& queries,
        hls::stream<word_t>& keys,
        hls::stream<Scores>& scores,
        const uint64_t* scaling,
        AttentionShape shape) {
        for (unsigned tile = 0; tile < tiles(shape); ++tile)
            for (unsigned head = 0; head < shape.heads; ++head) {
                const HeadScaling scale = head_scaling(scaling[head]);
                word_t resident[ROWS][WORDS];
#pragma HLS ARRAY_PARTITION variable=resident type=complete dim=1
                for (unsigned r = 0; r < ROWS; ++r)
                    for (unsigned word = 0; word < WORDS; ++word) {
#pragma HLS PIPELINE II=1
                        resident[r][word] = queries.read();
                    }
                int32_t dot[ROWS];
#pragma HLS ARRAY_PARTITION variable=dot type=complete
                for (unsigned key = 0; key < shape.keys; ++key)
                    for (unsigned word = 0; word < WORDS; ++word) {
#pragma HLS PIPELINE II=1
                        const word_t streamed = keys.read();
                        Scores found;
                        for (int r = 0; r < ROWS; ++r) {
#pragma HLS UNROLL
                            const int32_t sum = dot_word<LANES>(resident[r][word], false, streamed);
                            dot[r] = word == 0 ? sum : dot[r] + sum;
                            found.value[r] = requantize<SCORE_BITS>(
                                ap_int<33>(dot[r]), scale.score.multiplier, scale.score.shift).to_int();
                        }
                        if (word + 1 == WORDS) scores.write(found);
                    }
            }
    }

    // Blocks of scores to probabilities; per block the growth goes ahead of them, per head and tile the sum follows.
    static void softmax_blocks(
        hls::stream<Scores>& scores,
        hls::stream<Growth>& growths,
        hls::stream<Probabilities>& probabilities,
        hls::stream<Totals>& totals,
        bool p16,
        AttentionShape shape) {
        for (unsigned pass = 0; pass < tiles(shape) * shape.heads; ++pass) {
            SoftmaxRow state[ROWS];
#pragma HLS ARRAY_PARTITION variable=state type=complete
            for (unsigned first = 0; first < shape.keys; first += KEY_BLOCK) {
                const unsigned keys = shape.keys - first < KEY_BLOCK ? shape.keys - first : KEY_BLOCK;
                Scores block[KEY_BLOCK];
                int16_t highest[ROWS];
                uint32_t added[ROWS];
                Growth growth;
#pragma HLS AGGREGATE variable=block
#pragma HLS ARRAY_PARTITION variable=highest type=complete
#pragma HLS ARRAY_PARTITION variable=added type=complete
                for (unsigned key = 0; key < keys; ++key) {
#pragma HLS PIPELINE II=1
                    block[key] = scores.read();
                    for (int r = 0; r < ROWS; ++r) {
#pragma HLS UNROLL
                        const int16_t raised = ceiling(ap_int<SCORE_BITS>(block[key].value[r])).to_int();
                        highest[r] = key == 0 || raised > highest[r] ? raised : highest[r];
                    }
                }
                for (int r = 0; r < ROWS; ++r) {
#pragma HLS UNROLL
                    state[r] = raise_maximum(first == 0 ? fresh_row() : state[r], highest[r], first == 0);
                    growth.value[r] = state[r].growth;
                    added[r] = 0;
                }
                growths.write(growth);
                for (unsigned key = 0; key < keys; ++key) {
#pragma HLS PIPELINE II=1
                    Probabilities found;
                    for (int r = 0; r < ROWS; ++r) {
#pragma HLS UNROLL
                        const ap_uint<16> p =
                            probability(distance_of(state[r].maximum, ap_int<SCORE_BITS>(block[key].value[r])));
                        added[r] += p.to_uint();
                        found.high[r] = p16 ? uint8_t(p.to_uint() >> 8) : byte8(p);
                        found.low[r] = p16 ? uint8_t(p.to_uint() & 255) : uint8_t(0);
                    }
                    probabilities.write(found);
                }
                for (int r = 0; r < ROWS; ++r) {
#pragma HLS UNROLL
                    state[r].total = add_probabilities(state[r].total, added[r]);
                }
            }
            Totals total;
            for (int r = 0; r < ROWS; ++r) {
#pragma HLS UNROLL
                total.value[r] = state[r].total;
            }
            totals.write(total);
        }
    }

    // Probabilities times values; what older blocks have left is shifted by the growth of the maximum, without a multiplier.
    static void weigh_values(
        hls::stream<Growth>& growths,
        hls::stream<Probabilities>& probabilities,
        hls::stream<word_t>& values,
        hls::stream<Sums>& sums,
        AttentionShape shape) {
        for (unsigned pass = 0; pass < tiles(shape) * shape.heads; ++pass) {
            Sums accumulator[ROWS][WORDS], high[ROWS][WORDS], low[ROWS][WORDS];
#pragma HLS ARRAY_PARTITION variable=accumulator type=complete dim=1
#pragma HLS ARRAY_PARTITION variable=high type=complete dim=1
#pragma HLS ARRAY_PARTITION variable=low type=complete dim=1
            for (unsigned first = 0; first < shape.keys; first += KEY_BLOCK) {
                const unsigned keys = shape.keys - first < KEY_BLOCK ? shape.keys - first : KEY_BLOCK;
                const Growth growth = growths.read();
                Probabilities weight;
                for (unsigned key = 0; key < keys; ++key)
                    for (unsigned word = 0; word < WORDS; ++word) {
#pragma HLS PIPELINE II=1
                        if (word == 0) weight = probabilities.read();
                        const word_t value = values.read();
                        for (int r = 0; r < ROWS; ++r) {
#pragma HLS UNROLL
                            for (int lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
                                const int32_t of_high = int32_t(weight.high[r]) * value.byte[lane];
                                const int32_t of_low = int32_t(weight.low[r]) * value.byte[lane];
                                int32_t& high_sum = high[r][word].value[lane];
                                int32_t& low_sum = low[r][word].value[lane];
                                high_sum = key == 0 ? of_high : high_sum + of_high;
                                low_sum = key == 0 ? of_low : low_sum + of_low;
                            }
                        }
                    }
                for (unsigned word = 0; word < WORDS; ++word) {
#pragma HLS PIPELINE II=1
                    for (int r = 0; r < ROWS; ++r) {
#pragma HLS UNROLL
                        for (int lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
                            int32_t& sum = accumulator[r][word].value[lane];
                            const int32_t old = first == 0 ? 0 : rescale(sum, growth.value[r]);
                            sum = old + high[r][word].value[lane] + low_pass(low[r][word].value[lane]);
                        }
                    }
                }
            }
            for (unsigned r = 0; r < ROWS; ++r)
                for (unsigned word = 0; word < WORDS; ++word) {
#pragma HLS PIPELINE II=1
                    sums.write(accumulator[r][word]);
                }
        }
    }

    // The deferred division, requantization and writing.
    static void write_result(
        hls::stream<Totals>& totals,
        hls::stream<Sums>& sums,
        word_t* result,
        const uint64_t* scaling,
        AttentionShape shape) {
        for (unsigned tile = 0; tile < tiles(shape); ++tile)
            for (unsigned head = 0; head < shape.heads; ++head) {
                const HeadScaling scale = head_scaling(scaling[head]);
                const Totals total = totals.read();
                for (unsigned r = 0; r < ROWS; ++r) {
                    const unsigned token = tile * ROWS + r;
                    const Scaling row = reciprocal(total.value[r], scale.result.multiplier, scale.result.shift);
                    for (unsigned word = 0; word < WORDS; ++word) {
#pragma HLS PIPELINE II=1
                        const Sums sum = sums.read();
                        word_t out;
                        for (int lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
                            out.byte[lane] = saturate<8>(requantize<RESULT_BITS>(
                                ap_int<33>(sum.value[lane]), row.multiplier, row.shift)).to_int();
                        }
                        if (token < shape.queries) result[(token * shape.heads + head) * WORDS + word] = out;
                    }
                }
            }
    }

    // All processes run at once. `score_scaling` and `result_scaling` are the same entries at two ports, for two readers.
    static void run(
        const word_t* q,
        const word_t* k,
        const word_t* v,
        word_t* result,
        const uint64_t* score_scaling,
        const uint64_t* result_scaling,
        AttentionShape shape,
        bool p16) {
#pragma HLS DATAFLOW
        hls::stream<word_t> queries("queries"), keys("keys"), values("values");
        hls::stream<Scores> scores("scores");
        hls::stream<Growth> growths("growths");
        hls::stream<Probabilities> probabilities("probabilities");
        hls::stream<Totals> totals("totals");
        hls::stream<Sums> sums("sums");
#pragma HLS STREAM variable=queries depth=16
#pragma HLS STREAM variable=keys depth=16
#pragma HLS STREAM variable=values depth=16
#pragma HLS STREAM variable=scores depth=4
#pragma HLS STREAM variable=growths depth=2
#pragma HLS STREAM variable=probabilities depth=4
#pragma HLS STREAM variable=totals depth=2
#pragma HLS STREAM variable=sums depth=4
        read_queries(q, queries, shape);
        read_rows(k, keys, shape);
        read_rows(v, values, shape);
        score_keys(queries, keys, scores, score_scaling, shape);
        softmax_blocks(scores, growths, probabilities, totals, p16, shape);
        weigh_values(growths, probabilities, values, sums, shape);
        write_result(totals, sums, result, result_scaling, shape);
    }
};

}  // namespace hwattn

#endif
