#include "shard.h"

#include <stdlib.h>

#include "../kernels/kernels.h"

static const int64_t MAX_ROWS = INT32_MAX, MAX_DIM = 1 << 20, MAX_TABLES = 1 << 16, MAX_COLUMNS = INT32_MAX;
static const int64_t MAX_BATCH = 1 << 16; /* far above what is built; products stay within 64 bits */

static bool read_shard(Shard *shard, const char *folder, const Mapping *text, Problem *problem) {
    Reader reader = {text->bytes, text->bytes, (const char *)text->bytes + text->size, "shard.json", problem};
    if (!read_mark(&reader, '{') || !read_key(&reader, "rows") || !read_count(&reader, 1, MAX_ROWS, &shard->rows) ||
        !read_mark(&reader, ',') || !read_key(&reader, "dim") || !read_count(&reader, 1, MAX_DIM, &shard->dim) ||
        !read_mark(&reader, ',') || !read_key(&reader, "tables") ||
        !read_count(&reader, 1, MAX_TABLES, &shard->tables) || !read_mark(&reader, ',') ||
        !read_key(&reader, "columns") || !read_count(&reader, 1, MAX_COLUMNS, &shard->columns) ||
        !read_mark(&reader, ',') || !read_key(&reader, "max_batch_rows") ||
        !read_count(&reader, 1, MAX_BATCH, &shard->max_batch_rows) || !read_mark(&reader, '}') ||
        !read_end(&reader) ||
        !map_file(folder, "weights.bin", &shard->weights, problem))
        return false;
    const int64_t expected = 4 * shard->rows * shard->dim;
    return (int64_t)shard->weights.size == expected ||
           fail(problem, "weights.bin: expected %lld bytes (%lld rows of %lld), got %zu", (long long)expected,
                (long long)shard->rows, (long long)shard->dim, shard->weights.size);
}

Shard *shard_open(const char *folder, Problem *problem) {
    Mapping text;
    if (!map_file(folder, "shard.json", &text, problem)) return NULL;
    Shard *shard = calloc(1, sizeof *shard);
    if (shard == NULL) fail(problem, "shard.json: out of memory");
    if (shard != NULL && !read_shard(shard, folder, &text, problem)) {
        shard_close(shard);
        shard = NULL;
    }
    unmap_file(&text);
    return shard;
}

void shard_close(Shard *shard) {
    unmap_file(&shard->weights);
    free(shard);
}

bool shard_check_size(const Shard *shard, int64_t count, int64_t bags, Problem *problem) {
    const int64_t rows = shard->max_batch_rows, tables = shard->tables, columns = shard->columns;
    if (bags % tables != 0)
        return fail(problem, "lengths: expected a multiple of %lld, the tables held here, got %lld", (long long)tables,
                    (long long)bags);
    if (bags > rows * tables)
        return fail(problem, "lengths: expected at most %lld (%lld rows of %lld tables), got %lld",
                    (long long)(rows * tables), (long long)rows, (long long)tables, (long long)bags);
    return count <= rows * columns ||
           fail(problem, "ids: expected at most %lld (%lld rows of %lld columns), got %lld",
                (long long)(rows * columns), (long long)rows, (long long)columns, (long long)count);
}

bool shard_sums(const Shard *shard, const int32_t *ids, int64_t count, const int32_t *lengths, int64_t bags,
                float *sums, Problem *problem) {
    const int64_t bad =
        elasticrec_sum_bags(shard->weights.bytes, shard->rows, shard->dim, ids, count, lengths, bags, sums);
    if (bad >= 0)
        return fail(problem, "ids: expected rows in [0, %lld), got %d at place %lld", (long long)shard->rows, ids[bad],
                    (long long)bad);
    if (bad == -1) return true;
    int64_t total = 0;
    for (int64_t bag = 0; bag < bags; bag++) total += lengths[bag];
    return fail(problem, "lengths: expected %lld counts that add up to %lld ids, got a sum of %lld", (long long)bags,
                (long long)count, (long long)total);
}
