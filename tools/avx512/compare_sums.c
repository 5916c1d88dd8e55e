/* Sums of bags and rows taken: of all formats, to the bit as with AVX2 and as on any processor. */
#include "compare.h"
#include "kernels/bags.h"

enum { MOST_IDS = 4000, MOST_BAGS = 32, REPEATS = 4 };

static const char *const NAMES[] = {"fp32", "fp16", "bf16", "int8", "int8_half", "int4"};

static float number(void) {
    return (float)((int64_t)below(1 << 24) - (1 << 23)) * 0x1p-20f;
}

static uint16_t finite_half(void) {
    const uint16_t half = (uint16_t)below(1 << 16);
    return (half & 0x7c00) == 0x7c00 ? half & 0xbfff : half;
}

/* Draw a stored row, whose numbers are finite, now and then below the least normal one. */
static void fill(char *row, int64_t dim, RowDtype dtype) {
    const int64_t bytes = elasticrec_row_bytes(dim, dtype);
    for (int64_t i = 0; i < bytes && dtype >= INT8; i++) row[i] = (char)below(256);
    for (int64_t i = 0; i < dim && dtype < INT8; i++) {
        const float full = below(50) ? number() : 0x1p-149f * (float)below(1 << 20);
        const uint16_t half = finite_half();
        if (dtype == FP32) memcpy(row + 4 * i, &full, 4);
        if (dtype == FP16) memcpy(row + 2 * i, &half, 2);
        if (dtype == BF16) memcpy(row + 2 * i, (const char *)&full + 2, 2);
    }
    const float sides[] = {number(), number()};
    const uint16_t halves[] = {finite_half(), finite_half()};
    if (dtype == INT8) memcpy(row + dim, sides, sizeof sides);
    if (dtype > INT8) memcpy(row + bytes - sizeof halves, halves, sizeof halves);
}

static void compare(RowDtype dtype, int64_t dim, int64_t rows, int weighted, int take) {
    int64_t (*const run)(const Sums *) = named(take ? "elasticrec_take_rows" : "elasticrec_sum_bags");
    static int32_t ids[MOST_IDS], lengths[MOST_BAGS];
    static float weights[MOST_IDS];
    const int64_t side = take ? 1 : 1 + (int64_t)below(3), bags = side * (1 + (int64_t)below(6));
    const int64_t stride = side * dim + (take ? 0 : (int64_t)below(9)), row_bytes = elasticrec_row_bytes(dim, dtype);
    int64_t count = take ? 40 : 0;
    for (int64_t bag = 0; bag < bags && !take; bag++) count += lengths[bag] = (int32_t)below(below(6) ? 9 : 101);
    const Room matrix = room((size_t)(rows * row_bytes));
    for (int64_t i = 0; i < count; i++) {
        ids[i] = (int32_t)(below(5) ? below((uint64_t)rows) : (uint64_t)rows - 1);
        weights[i] = number();
        fill(matrix.at + ids[i] * row_bytes, dim, dtype);
    }
    const int64_t out_rows = take ? count : bags / side;
    const size_t size = 4 * (size_t)((out_rows - 1) * stride + side * dim);
    const Processor all = *processor, fewer[] = {all, {.avx2 = true}, {0}};
    Room out[3];
    for (int v = 0; v < 3; v++) {
        out[v] = room(size);
        memset(out[v].at, 0x5a, size);
        const Sums sums = {
            .matrix = matrix.at, .rows = rows, .dim = dim, .dtype = dtype, .ids = ids, .count = count,
            .weights = weighted ? weights : NULL, .lengths = lengths, .bags = bags, .out = (float *)out[v].at,
            .side = side, .stride = stride,
        };
        *processor = fewer[v];
        seen.faults += run(&sums) != -1;
    }
    *processor = all;
    const int differ = memcmp(out[0].at, out[1].at, size) || memcmp(out[0].at, out[2].at, size);
    if (differ)
        say("%s of dim %d, %d rows%s%s\n", NAMES[dtype], dim, rows, weighted ? ", weighted" : "", take ? ", taken" : "");
    seen.cases++, seen.ids += count, seen.faults += differ;
    for (int v = 0; v < 3; v++) give_back(out[v]);
    give_back(matrix);
}

void compare_sums(void) {
    static const int64_t DIMS[] = {16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 256, 272, 512, 17};
    static const int64_t ROWS[] = {1, 300, 30000, 140000};
    for (int dtype = 0; dtype < ROW_DTYPES; dtype++) {
        for (size_t d = 0; d < sizeof DIMS / sizeof *DIMS; d++)
            for (int n = 0; n < REPEATS && seen.faults < 10; n++) {
                const int64_t rows = ROWS[n] * DIMS[d] > 1 << 24 ? 300 : ROWS[n];
                compare((RowDtype)dtype, DIMS[d], rows, 0, 0);
                compare((RowDtype)dtype, DIMS[d], rows, 1, 0);
                compare((RowDtype)dtype, DIMS[d], rows, 0, 1);
            }
        say("sums, %s: %d cases, %d differ\n", NAMES[dtype], seen.cases, seen.faults);
    }
}
