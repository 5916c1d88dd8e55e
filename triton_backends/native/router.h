/* Sorting a query's ids to the services that hold their rows, as `router/router.py` does. Knows nothing of Triton. */
#ifndef ELASTICREC_ROUTER_H
#define ELASTICREC_ROUTER_H

#include "../kernels/kernels.h"
#include "files.h"
#include "tensor.h"

enum { PART_NAME_BYTES = NAME_BYTES + 16 };

/* The kinds of a look-up's bounds: `router/routing.py` has the same. */
enum { NO_BOUNDS = 0, OFFSETS = 1, ENDS = 2, LENGTHS = 3 };

typedef struct {
    char text[NAME_BYTES];
} Name;

typedef struct {
    char text[NAME_BYTES];
    bool weights; /* FP32; else ids or bounds, which are INT64 or INT32 */
} RoutedInput;

typedef struct {
    Name name;
    int64_t rows, shards;
    const uint64_t *map;
} RoutedTable;

typedef struct {
    Name name;
    int64_t table, group, mean;   /* mean: 1 where bags are averaged */
    int64_t ids, bounds, weights; /* tensors, by their indexes among the inputs; -1: none */
    int64_t width, begin, bag;    /* without bounds; width and bag -1: the last dimension, which varies, is one bag */
    int64_t kind, block, blocks;  /* of bounds */
    int64_t has_padding, padding, from_end;
    int64_t twin;  /* the first look-up with the same ids and bounds */
    int64_t space; /* of one whose rows are answered as they are: the first such with its table and group; else -1 */
    int64_t units[MAX_SHARDS], unit_count; /* that hold its shards, each once, and its first bag there */
    int64_t first_bags[MAX_SHARDS];
    Lookup routed; /* `count` bags a row */
} RoutedLookup;

/* bags: 0 where rows are answered as they are. */
typedef struct {
    int64_t service, group, bags, weighted;
} RoutedUnit;

/* Of one service and one group: what one call's tensors hold. */
typedef struct {
    int64_t service, group;
    int64_t first, end; /* units */
    int64_t bags, weighted, unpooled; /* weighted, unpooled: units; the latter's rows are answered as they are */
    char ids_name[PART_NAME_BYTES], lengths_name[PART_NAME_BYTES], weights_name[PART_NAME_BYTES]; /* the router's outputs */
} RoutedPart;

typedef struct {
    Name name;
    int64_t first, unpooled, end; /* look-ups, by their indexes in `order`; from `unpooled` on those without bags */
    int64_t counted;    /* the first one in the model's order, which tells the rows */
    int64_t bags;       /* of a row, all look-ups */
    int64_t means;      /* look-ups that are averaged */
} RoutedGroup;

/* Columns of a matrix of ids that another reads: they must be rows of a table, or the padding. */
typedef struct {
    Name name;
    int64_t rows, ids, width, begin, columns, padding; /* ids: a tensor, by its index among the inputs */
} CheckedIds;

typedef struct {
    Name *finite, *services; /* finite: tensors whose numbers must be */
    RoutedInput *inputs;
    int64_t finite_count, input_count, service_count;
    RoutedTable *tables;
    RoutedLookup *lookups;
    int64_t *order; /* the look-ups, group by group, those with bags first */
    RoutedUnit *units;
    RoutedPart *parts; /* in the units' order */
    RoutedGroup *groups;
    CheckedIds *checked;
    int64_t table_count, lookup_count, unit_count, part_count, group_count, checked_count;
    Mapping id_maps;
    uint64_t seed; /* of hash tables: nobody knows it */
} Router;

/* Open `router.json` and `idmap.bin`, every number in them checked; NULL and the problem where one is wrong.
 * What passes may route wrongly, but never makes routing read or write out of bounds. */
Router *router_open(const char *folder, Problem *problem);
void router_close(Router *router);

/* ---- routing.c: a query. Tensors: as the router's inputs. ---- */

/* What a query's tensors hold for each look-up. */
typedef struct {
    int64_t *rows;    /* of each group */
    int64_t *room;    /* ids that can land in each unit */
    int64_t unpooled;    /* ids of un-pooled look-ups */
    Read *reads;      /* in the router's order */
    int64_t **starts; /* of bags, where the look-up has bounds and is its own twin */
    void **changed;   /* ids and weights that are not read where they came */
    void *memory;     /* holds all these lists */
} Reading;

/* Find the number of rows of each group, which its look-ups must agree upon. To be forgotten whatever comes of it. */
bool router_measure(const Router *router, const Tensor *tensors, Reading *reading, Problem *problem);

/* Find each look-up's ids in what was measured; all bounds are checked. */
bool router_read(const Router *router, const Tensor *tensors, Reading *reading, Problem *problem);
void router_forget(const Router *router, Reading *reading);

/* elasticrec_route and elasticrec_find_rows for all groups, once all `checked` ids are good; the problem names table, id
 * and index, and then `set` is as before. units: one each, in their order, with room for the reading's ids (and weights)
 * and rows * bags zeroed lengths. once: bags that are the row before's are left out, as elasticrec_route says.
 * set: with room for the reading's ids of un-pooled look-ups, whose positions are added in the order of `order`. */
bool router_route(const Router *router, const Tensor *tensors, const Reading *reading, bool once, Unit *units,
                  RowSet *set, Problem *problem);

/* What each bag's sum is to be divided by: divisors (rows, bags of the group), the bag's ids where its look-up is averaged
 * and it has any, else 1. units: as router_route leaves them where
 * no bag is left out, or with indexes; asked: the services whose ids count, NULL for all. */
void router_divide(const Router *router, int64_t group, const Unit *units, const bool *asked, int64_t rows,
                   float *divisors);

#endif
