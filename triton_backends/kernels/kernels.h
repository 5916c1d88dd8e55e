/* The hot loops of serving: routing ids to shards (route.c, rows.c), and summing the rows of bags (bags.c, bags_wide.c). */
#ifndef ELASTICREC_KERNELS_H
#define ELASTICREC_KERNELS_H

#include <stdint.h>

enum { MAX_SHARDS = 16, PADDING = -1, REPEATED = -1 }; /* REPEATED: a length, of a bag that is the row before's */
enum { ROOM_BEHIND = 8 };

/* Bags of rows of one table, `count` side by side in each row of a group. */
typedef struct {
    const uint64_t *map;      /* the table's blocks; unused where bits is 0 (one shard: the row is the id) */
    int64_t rows;             /* of the table */
    int64_t bits;
    int64_t count;
    int64_t padded;           /* 1: PADDING stands for no id; 0: it is no id either */
    int64_t base[MAX_SHARDS]; /* where the shard's rows of this table begin in its unit's matrix */
    int64_t unit[MAX_SHARDS]; /* the unit that holds the shard */
    int64_t first_bag[MAX_SHARDS]; /* the look-up's first one among the bags of the unit's row */
} Lookup;

/* A look-up's ids in a query. */
typedef struct {
    const Lookup *lookup;
    const void *ids;       /* the first row's first */
    const float *weights;  /* beside the ids; NULL: its rows are not weighted */
    const int64_t *starts; /* (rows + 1): where each row's one bag begins in ids; NULL: bags are of one size */
    int64_t first;         /* what starts count from */
    int64_t id_bytes;      /* 8 or 4 */
    int64_t stride, bag;   /* where they are of one size: from a row's first id to the next one's, and ids a bag */
} Read;

/* Bags that a service sums alike, or rows that it answers as they are: what a query sends there. */
typedef struct {
    int32_t *ids;     /* room for all, and for ROOM_BEHIND more: look-ups write several at a time */
    float *weights;   /* room for one an id; NULL: none is weighted */
    int32_t *lengths; /* (rows, bags); of rows as they are one number, how many */
    int64_t bags;     /* of a row; 0: rows as they are */
    int64_t count;    /* out: ids written */
    const int32_t *index; /* of each bag, (rows, bags), which of the lengths is its: -1, it is empty; NULL: each its own */
} Unit;

/* A row that is answered as it is: the index-th that its unit asks for. */
typedef struct {
    int32_t unit, index;
} FoundRow;

/* The rows that un-pooled look-ups read, each once; and of every id read, which of them it is. */
typedef struct {
    uint64_t *keys;     /* a hash table of the rows' keys, at most half full; 0: free */
    int32_t *numbers;   /* beside the keys: which row */
    int64_t slots;      /* of the table: a power of two */
    uint64_t seed;      /* so that nobody can foretell which keys collide */
    FoundRow *rows;     /* room for all */
    int64_t row_count;
    int32_t *positions; /* one an id, in `rows`; -1: padding */
    int64_t position_count;
} RowSet;

/* How rows are stored, as row_formats.py says. */
typedef enum { FP32, FP16, BF16, INT8, INT8_HALF, INT4, ROW_DTYPES } RowDtype;

/* Numbers that stay where a socket's bytes were read, at any address. */
typedef int32_t UnalignedInt32 __attribute__((aligned(1)));
typedef float UnalignedFloat __attribute__((aligned(1)));

/* Sums of rows of a matrix, `dim` numbers each. */
typedef struct {
    const void *matrix; /* (rows, bytes of a row) */
    int64_t rows, dim;
    int64_t dtype; /* a RowDtype */
    const UnalignedInt32 *ids;
    int64_t count;                 /* ids */
    const UnalignedFloat *weights; /* one an id; NULL: rows are added as they are */
    const UnalignedInt32 *lengths;
    int64_t bags;         /* lengths */
    float *out;
    int64_t side, stride; /* so many bags' sums lie side by side, and those of the next ones `stride` numbers on */
} Sums;

int64_t elasticrec_route(const Read *reads, int64_t read_count, int64_t rows, int64_t once, Unit *units, int64_t *index);
int64_t elasticrec_check_rows(const Read *read, int64_t rows);
void elasticrec_find_rows(const Read *read, int64_t rows, int64_t space, Unit *units, RowSet *set);
void elasticrec_join_rows(const int32_t *ids, int64_t count, int64_t space, int64_t first, Unit *unit, RowSet *set);
int64_t elasticrec_check_bags(const Sums *sums);
int64_t elasticrec_sum_bags(const Sums *sums);
int64_t elasticrec_take_rows(const Sums *sums);

#endif
