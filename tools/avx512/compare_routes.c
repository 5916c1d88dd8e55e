/* Look-ups by id maps of all sizes: against a count of the rows before each, and as on any processor. */
#include "compare.h"
#include "kernels/id_map.h"

enum { REPEATS = 2, MOST_ROWS = 16, LARGE = 300000 };

typedef enum { ONE_SIZE, RAGGED, SEVERAL_A_ROW, KINDS } Kind;

typedef struct {
    int shards, bits;
    int64_t rows;
    Room shard_room, local_room, map_room;
    uint8_t *shard; /* of each row */
    int32_t *local; /* its place among the shard's rows */
    uint64_t *map;
} Table;

/* The map, as id_map.h describes it. */
static void write_map(Table *table) {
    const int bits = table->bits, words = PLANE_WORDS[bits], block_ids = 64 * words, shards = 1 << bits;
    uint32_t before[MAX_SHARDS] = {0}, group[MAX_SHARDS] = {0};
    for (int64_t id = 0; id < table->rows; id++) {
        const uint64_t block = (uint64_t)id / (uint64_t)block_ids;
        const int place = (int)(id % block_ids), shard = table->shard[id];
        uint64_t *line = table->map + block_at(bits, block), *planes = line + COUNTER_WORDS(bits);
        if (place == 0 && IS_GROUPED(bits) && block % GROUP_BLOCKS == 0) {
            memcpy(group, before, sizeof group);
            memcpy(table->map + group_at(block), group, 4 * (size_t)shards);
        }
        for (int s = 0; s < shards && place == 0; s++)
            if (IS_GROUPED(bits)) ((uint16_t *)line)[s] = (uint16_t)(before[s] - group[s]);
            else ((uint32_t *)line)[s] = before[s];
        for (int p = 0; p < bits; p++) planes[p * words + place / 64] |= (uint64_t)(shard >> p & 1) << place % 64;
        before[shard]++;
    }
}

/* Which row lies in which shard is drawn: evenly, in runs, or most of them in few. */
static Table draw_table(int shards, int64_t rows, int how) {
    Table table = {.shards = shards, .rows = rows};
    while (1 << table.bits < shards) table.bits++;
    table.shard_room = room((size_t)rows), table.shard = (uint8_t *)table.shard_room.at;
    table.local_room = room(4 * (size_t)rows), table.local = (int32_t *)table.local_room.at;
    table.map_room = zeroed_room(id_map_bytes((uint64_t)rows, table.bits)), table.map = (uint64_t *)table.map_room.at;
    int32_t counts[MAX_SHARDS] = {0};
    uint64_t shard = 0, run = 0;
    for (int64_t id = 0; id < rows; id++) {
        if (how == 0) shard = below((uint64_t)shards);
        else if (how == 1) shard = run-- > 0 ? shard : (run = below(700), below((uint64_t)shards));
        else shard = below(below((uint64_t)shards) + 1);
        table.shard[id] = (uint8_t)shard;
        table.local[id] = counts[shard]++;
    }
    if (table.bits > 0) write_map(&table);
    return table;
}

static void drop(const Table *table) {
    give_back(table->shard_room);
    give_back(table->local_room);
    give_back(table->map_room);
}

/* A query's ids: `count` bags in each row, whose sizes are `bag`, or drawn where that is negative. */
typedef struct {
    Room room;
    int64_t *ids; /* as they are before they may be narrowed into the room */
    int64_t rows, count, bag, total;
    int64_t starts[MOST_ROWS + 1];
} Query;

static Query draw_query(const Table *table, Kind kind, int id_bytes, int repeats) {
    static int64_t ids[MOST_ROWS * 4 * 128];
    Query query = {.ids = ids, .rows = 1 + (int64_t)below(12), .count = 1};
    if (kind == SEVERAL_A_ROW) query.count = 2 + (int64_t)below(3);
    query.bag = kind == RAGGED ? -1 : (int64_t)below(below(4) ? 101 : 20);
    if (kind == SEVERAL_A_ROW && query.bag == 1) query.bag = 7; /* of single ids another function takes care */
    for (int64_t row = 0; row < query.rows; row++) {
        query.starts[row] = query.total;
        query.total += query.count * (kind == RAGGED ? (int64_t)below(101) : query.bag);
    }
    query.starts[query.rows] = query.total;
    const uint64_t end = (uint64_t)table->rows;
    const int64_t width = query.count * query.bag;
    query.room = room((size_t)(query.total * id_bytes));
    for (int64_t i = 0; i < query.total; i++) {
        ids[i] = (int64_t)(below(9) ? below(end) : end - 1 - below(end < 100 ? end : 100));
        if (below(12) == 0) ids[i] = PADDING;
        if (repeats && kind != RAGGED && i >= width && i / width % 3 > 0) ids[i] = ids[i - width];
        memcpy(query.room.at + i * id_bytes, ids + i, (size_t)id_bytes);
    }
    return query;
}

typedef struct {
    Unit units[MAX_SHARDS];
    Room ids[MAX_SHARDS], lengths[MAX_SHARDS];
} Answer;

static int first_bag(int shard) {
    return shard % 3;
}

/* Each shard is a unit by itself, which has no more room than it must have. */
static Answer answer(const Table *table, const Query *query, int id_bytes, int once) {
    int64_t (*const route)(const Read *, int64_t, int64_t, int64_t, Unit *, int64_t *) = named("elasticrec_route");
    Lookup lookup = {.map = table->map, .rows = table->rows, .bits = table->bits, .count = query->count, .padded = 1};
    size_t sizes[MAX_SHARDS] = {0};
    for (int64_t i = 0; i < query->total; i++)
        if (query->ids[i] >= 0) sizes[table->shard[query->ids[i]]]++;
    Answer answer = {0};
    for (int s = 0; s < 1 << table->bits; s++) {
        const int shard = s < table->shards ? s : 0;
        lookup.unit[s] = shard, lookup.base[s] = 1000 * shard, lookup.first_bag[s] = first_bag(shard);
    }
    for (int s = 0; s < table->shards; s++) {
        const int64_t bags = first_bag(s) + query->count + 1;
        answer.ids[s] = zeroed_room(4 * (sizes[s] + ROOM_BEHIND));
        answer.lengths[s] = zeroed_room(4 * (size_t)(query->rows * bags));
        int32_t *const ids = (int32_t *)answer.ids[s].at, *const lengths = (int32_t *)answer.lengths[s].at;
        answer.units[s] = (Unit){.ids = ids, .lengths = lengths, .bags = bags};
    }
    const Read read = {
        .lookup = &lookup, .ids = query->room.at, .starts = query->bag < 0 ? query->starts : NULL, .id_bytes = id_bytes,
        .stride = query->count * query->bag, .bag = query->bag,
    };
    int64_t index;
    seen.faults += route(&read, 1, query->rows, once, answer.units, &index) != -1;
    return answer;
}

static int is_counted(const Table *table, const Query *query, const Answer *answer) {
    int64_t at[MAX_SHARDS] = {0}, i = 0;
    for (int64_t row = 0; row < query->rows; row++)
        for (int64_t nth = 0; nth < query->count; nth++) {
            int64_t begin[MAX_SHARDS];
            memcpy(begin, at, sizeof begin);
            for (int64_t left = query->bag < 0 ? query->starts[row + 1] - i : query->bag; left > 0; left--, i++) {
                if (query->ids[i] < 0) continue;
                const int s = table->shard[query->ids[i]];
                if (answer->units[s].ids[at[s]++] != 1000 * s + table->local[query->ids[i]]) return 0;
            }
            for (int s = 0; s < table->shards; s++)
                if (answer->units[s].lengths[row * answer->units[s].bags + first_bag(s) + nth] != at[s] - begin[s])
                    return 0;
        }
    for (int s = 0; s < table->shards; s++)
        if (answer->units[s].count != at[s]) return 0;
    return 1;
}

static int are_same(int shards, const Answer *one, const Answer *other) {
    for (int s = 0; s < shards; s++)
        if (one->units[s].count != other->units[s].count ||
            memcmp(one->ids[s].at, other->ids[s].at, 4 * (size_t)one->units[s].count) != 0 ||
            memcmp(one->lengths[s].at, other->lengths[s].at, one->lengths[s].size) != 0)
            return 0;
    return 1;
}

static void compare(const Table *table, Kind kind, int id_bytes, int once) {
    static const char *const NAMES[] = {"bags of one size", "ragged bags", "several bags a row"};
    const Query query = draw_query(table, kind, id_bytes, once);
    const Processor all = *processor;
    const Answer wide = answer(table, &query, id_bytes, once);
    processor->avx512 = 0;
    const Answer narrower = answer(table, &query, id_bytes, once);
    *processor = (Processor){0};
    const Answer plain = answer(table, &query, id_bytes, once);
    *processor = all;
    const int right = are_same(table->shards, &wide, &plain) && are_same(table->shards, &narrower, &plain) &&
                      (once || is_counted(table, &query, &wide));
    if (!right)
        say("%d shards, %d rows, ids of %d bytes, %s%s\n", (int64_t)table->shards, table->rows, (int64_t)id_bytes,
            NAMES[kind], once ? ", repeated ones once" : "");
    seen.cases++, seen.ids += query.total, seen.faults += !right;
    for (int s = 0; s < table->shards; s++) {
        give_back(wide.ids[s]), give_back(wide.lengths[s]);
        give_back(narrower.ids[s]), give_back(narrower.lengths[s]);
        give_back(plain.ids[s]), give_back(plain.lengths[s]);
    }
    give_back(query.room);
}

void compare_routes(void) {
    for (int shards = 1; shards <= MOST_SHARDS; shards++) {
        int bits = 0;
        while (1 << bits < shards) bits++;
        const int64_t block = 64 * PLANE_WORDS[bits], group = GROUP_BLOCKS * block;
        const int64_t sizes[] = {
            1, 2, 63, 64, 65, 449, block - 1, block, block + 1, 5 * block - 3, group - 1, group, group + 1,
            2 * group - block - 1, 2 * group + block + 1, 3 * group + 7, LARGE,
        };
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes && seen.faults < 10; i++) {
            const Table table = draw_table(shards, sizes[i], (int)(i + (size_t)shards) % 3);
            for (int n = 0; n < REPEATS; n++)
                for (int kind = 0; kind < KINDS; kind++) {
                    compare(&table, (Kind)kind, 8, n == 1);
                    compare(&table, (Kind)kind, 4, n == 1);
                }
            drop(&table);
        }
        say("routes, %d shards: %d cases, %d differ\n", (int64_t)shards, seen.cases, seen.faults);
    }
}
