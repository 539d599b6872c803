/* Simulated annealing of a placed design, by the delays of its paths.
 *
 * A move exchanges what two places hold and is undone unless it pays: the contents of two positions (LUTs, flip-flops,
 * or both), all of two slices or of two stacks of slices, or two block RAMs. So every state can be routed if the first
 * could: the rules of a slice are looked at where a move could break them.
 *
 * What a wire costs is its delay times a weight, which grows with the longest path that it is on (a power of that, as
 * in VPR) and from epoch to epoch for as long as the path is longer than the goal. Betz, Rose: VPR (FPL 1997).
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "annealing.h"

#define SHARE 0.7           /* of timing in the cost, the rest is length */
#define POWER 10.0          /* of path by goal in the weight of a wire */
#define GROWTH 0.1          /* of a weight in one epoch, for each part by which a path is too long */
#define MOST 100.0          /* that a weight grows to */
#define LEAST 0.01          /* weight */
#define HOT 1e-5            /* temperatures, as a part of the cost of the whole design */
#define COLD 1e-7
#define FAR 10.0            /* how far from its aim something is put, in rows */
#define NEAR 1.0
#define GREEDY 20           /* epochs at the end in which nothing that costs more is accepted */
#define MOST_MOVED 4096     /* cells in a move */

enum { LUTS = 1, FFS = 2, BOTH = 3 };

typedef struct {
    placement *p;
    uint64_t random;
    int *x, *y;              /* of cells */
    int *column_at, *row_at; /* nearest to x, y */
    int last_x, last_y;
    float *wire, *arrival, *tail;
    double *grown, *weight, *length;
    double timing_scale, length_scale, temperature, spread;
    double worst;
    /* The move that is being tried. */
    int moved[MOST_MOVED], n_moved;
    int *arc_seen, *net_seen, seen;
    int *arcs, n_arcs, *nets, n_nets;
    float *new_wire;
    double *new_length;
} annealer;

static uint32_t next(annealer *s) {
    s->random ^= s->random << 13;
    s->random ^= s->random >> 7;
    s->random ^= s->random << 17;
    return (uint32_t)(s->random >> 16);
}

static int below(annealer *s, int n) { return (int)(((uint64_t)next(s) * (uint32_t)n) >> 32); }

static double fraction(annealer *s) { return next(s) / 4294967296.0; }

static int one_of(const int32_t *cells, int k) { return cells[2 * k] >= 0 ? cells[2 * k] : cells[2 * k + 1]; }

static void locate(annealer *s, int cell) {
    const placement *p = s->p;
    int site = p->cell_site[cell];
    s->x[cell] = site < 0 ? p->fixed_x[cell] : p->site_x[site];
    s->y[cell] = site < 0 ? p->fixed_y[cell] : p->site_y[site];
}

/* What a wire takes, by the distance of its ends: fitted to routed wires of a design that fills 60 % of the device. */
static float delay(const annealer *s, int arc) {
    const placement *p = s->p;
    if (p->arc_wire[arc] >= 0) return p->arc_wire[arc];
    int a = p->arc_source[arc], b = p->arc_sink[arc];
    int dx = abs(s->x[a] - s->x[b]), dy = abs(s->y[a] - s->y[b]);
    if (dx == 0 && dy == 0) {
        int together = p->cell_site[a] == p->cell_site[b] && p->cell_position[a] == p->cell_position[b];
        return together && p->cell_position[a] >= 0 ? 0.03f : 0.40f;
    }
    float near_x = dx < 18 ? dx : 18, near_y = dy < 6 ? dy : 6;
    float wire = 0.45f + 0.045f * near_x + 0.015f * (dx - near_x) + 0.09f * near_y + 0.03f * (dy - near_y);
    return wire * p->arc_stretch[arc];
}

/* Half the circumference of what a net spans; rows count double, as they are farther apart for the router. */
static double length(const annealer *s, int net) {
    const placement *p = s->p;
    int first = p->net_cells[net], end = p->net_cells[net + 1];
    int x0 = 1 << 30, x1 = -1, y0 = 1 << 30, y1 = -1;
    for (int i = first; i < end; i++) {
        int x = s->x[p->cells_of_nets[i]], y = s->y[p->cells_of_nets[i]];
        if (x < x0) x0 = x;
        if (x > x1) x1 = x;
        if (y < y0) y0 = y;
        if (y > y1) y1 = y;
    }
    double branches = end - first > 4 ? 1.0 + 0.02 * (end - first - 4) : 1.0;
    return branches * ((x1 - x0) + 2 * (y1 - y0));
}

/* Arrival at each node, what follows it at most, and the longest path. */
static void analyse(annealer *s) {
    const placement *p = s->p;
    for (int n = 0; n < p->nodes; n++) {
        s->arrival[n] = p->node_launch[n];
        s->tail[n] = -1;
    }
    s->worst = 0;
    for (int a = 0; a < p->arcs; a++) {
        s->wire[a] = delay(s, a);
        int from = p->arc_from[a], to = p->arc_to[a];
        if (s->arrival[from] < 0) continue;
        float at = s->arrival[from] + s->wire[a] + p->arc_logic[a];
        if (to < 0) {
            if (at > s->worst) s->worst = at;
        } else if (at > s->arrival[to]) {
            s->arrival[to] = at;
        }
    }
    for (int a = p->arcs - 1; a >= 0; a--) {
        int from = p->arc_from[a], to = p->arc_to[a];
        if (to >= 0 && s->tail[to] < 0) continue;
        float rest = s->wire[a] + p->arc_logic[a] + (to < 0 ? 0 : s->tail[to]);
        if (rest > s->tail[from]) s->tail[from] = rest;
    }
}

static double path(const annealer *s, int arc) {
    const placement *p = s->p;
    int from = p->arc_from[arc], to = p->arc_to[arc];
    if (s->arrival[from] < 0 || (to >= 0 && s->tail[to] < 0)) return 0;
    return s->arrival[from] + s->wire[arc] + p->arc_logic[arc] + (to < 0 ? 0 : s->tail[to]);
}

/* Rules of a slice. */

static int drives(const placement *p, int lut, int cell) {
    return lut >= 0 && cell >= 0 && (p->lut_cells[2 * lut] == cell || p->lut_cells[2 * lut + 1] == cell);
}

static int are_coupled(const placement *p, int lut, int ff) {
    return ff >= 0 && (drives(p, lut, p->ff_driver[2 * ff]) || drives(p, lut, p->ff_driver[2 * ff + 1]));
}

/* The second flip-flop of a position leaves by the output that the 5LUT uses for what goes elsewhere. The input that
 * bypasses the LUTs, of which there is one, needs no look: LUTs do not leave flip-flops that they feed. */
static int fits(const placement *p, int lut, int ff) {
    if (lut < 0 || ff < 0 || p->lut_cells[2 * lut + 1] < 0 || p->ff_cells[2 * ff + 1] < 0) return 1;
    int output = p->lut_output5[lut];
    int stays = output == p->ff_net[2 * ff] || output == p->ff_net[2 * ff + 1];
    return stays && !p->lut_output5_is_shared[lut];
}

static int shares_control(const placement *p, int slice) {
    int control = -1;
    for (int k = 4 * slice; k < 4 * slice + 4; k++) {
        int ff = p->position_ff[k];
        if (ff < 0) continue;
        if (control >= 0 && control != p->ff_control[ff]) return 0;
        control = p->ff_control[ff];
    }
    return 1;
}

/* Moves. */

static void put(annealer *s, int cell, int site) {
    s->p->cell_site[cell] = site;
    locate(s, cell);
    s->moved[s->n_moved++] = cell;
}

static void put_pair(annealer *s, const int32_t *cells, int position) {
    for (int k = 0; k < 2; k++) {
        if (cells[k] < 0) continue;
        s->p->cell_position[cells[k]] = position % 4;
        put(s, cells[k], position / 4);
    }
}

static void put_lut(annealer *s, int position, int lut) {
    placement *p = s->p;
    p->position_lut[position] = lut;
    if (lut < 0) return;
    p->lut_position[lut] = position;
    put_pair(s, p->lut_cells + 2 * lut, position);
}

static void put_ff(annealer *s, int position, int ff) {
    placement *p = s->p;
    p->position_ff[position] = ff;
    if (ff < 0) return;
    p->ff_position[ff] = position;
    put_pair(s, p->ff_cells + 2 * ff, position);
}

/* What the move in s->moved costs. */
static double cost(annealer *s) {
    const placement *p = s->p;
    double sum = 0;
    s->seen++;
    s->n_arcs = s->n_nets = 0;
    for (int i = 0; i < s->n_moved; i++) {
        int cell = s->moved[i];
        for (int k = p->cell_arcs[cell]; k < p->cell_arcs[cell + 1]; k++) {
            int arc = p->arcs_of_cells[k];
            if (s->arc_seen[arc] == s->seen) continue;
            s->arc_seen[arc] = s->seen;
            float wire = delay(s, arc);
            if (wire == s->wire[arc]) continue;
            sum += s->timing_scale * s->weight[arc] * (wire - s->wire[arc]);
            s->new_wire[s->n_arcs] = wire;
            s->arcs[s->n_arcs++] = arc;
        }
        for (int k = p->cell_nets[cell]; k < p->cell_nets[cell + 1]; k++) {
            int net = p->nets_of_cells[k];
            if (s->net_seen[net] == s->seen) continue;
            s->net_seen[net] = s->seen;
            double spans = length(s, net);
            if (spans == s->length[net]) continue;
            sum += s->length_scale * (spans - s->length[net]);
            s->new_length[s->n_nets] = spans;
            s->nets[s->n_nets++] = net;
        }
    }
    return sum;
}

static int accept(annealer *s) {
    double more = cost(s);
    if (more > 0 && (s->temperature == 0 || fraction(s) >= exp(-more / s->temperature))) return 0;
    for (int i = 0; i < s->n_arcs; i++) s->wire[s->arcs[i]] = s->new_wire[i];
    for (int i = 0; i < s->n_nets; i++) s->length[s->nets[i]] = s->new_length[i];
    return 1;
}

static int exchange_positions(annealer *s, int a, int b, int what) {
    placement *p = s->p;
    int slice_a = a / 4, slice_b = b / 4;
    if (a == b || p->slice_macro[slice_a] >= 0 || p->slice_macro[slice_b] >= 0) return 0;
    int lut_a = p->position_lut[a], lut_b = p->position_lut[b];
    int ff_a = p->position_ff[a], ff_b = p->position_ff[b];
    if (what == LUTS && !(fits(p, lut_b, ff_a) && fits(p, lut_a, ff_b))) return 0;
    if (what == FFS && !(fits(p, lut_a, ff_b) && fits(p, lut_b, ff_a))) return 0;
    if (what & FFS) {
        p->position_ff[a] = ff_b;
        p->position_ff[b] = ff_a;
        if (slice_a != slice_b && !(shares_control(p, slice_a) && shares_control(p, slice_b))) {
            p->position_ff[a] = ff_a;
            p->position_ff[b] = ff_b;
            return 0;
        }
    }
    s->n_moved = 0;
    if (what & LUTS) put_lut(s, a, lut_b), put_lut(s, b, lut_a);
    if (what & FFS) put_ff(s, a, ff_b), put_ff(s, b, ff_a);
    if (accept(s)) return 1;
    s->n_moved = 0;
    if (what & LUTS) put_lut(s, a, lut_a), put_lut(s, b, lut_b);
    if (what & FFS) put_ff(s, a, ff_a), put_ff(s, b, ff_b);
    return 0;
}

/* Put the part of a macro that is in slice ``from`` into slice ``to``. */
static void put_macro(annealer *s, int macro, int from_row, int base_row, int to) {
    const placement *p = s->p;
    int k = p->macro_first[macro] + from_row - base_row;
    for (int i = p->macro_slice_cells[k]; i < p->macro_slice_cells[k + 1]; i++) put(s, p->macro_cells[i], to);
}

static void exchange_contents(annealer *s, const int *a, const int *b, int n) {
    placement *p = s->p;
    for (int k = 0; k < n; k++) {
        int macro_a = p->slice_macro[a[k]], macro_b = p->slice_macro[b[k]];
        for (int at = 0; at < 4; at++) {
            int one = 4 * a[k] + at, other = 4 * b[k] + at;
            int lut = p->position_lut[one], ff = p->position_ff[one];
            put_lut(s, one, p->position_lut[other]);
            put_lut(s, other, lut);
            put_ff(s, one, p->position_ff[other]);
            put_ff(s, other, ff);
        }
        if (macro_a >= 0) put_macro(s, macro_a, p->slice_row[a[k]], p->slice_row[p->macro_base[macro_a]], b[k]);
        if (macro_b >= 0) put_macro(s, macro_b, p->slice_row[b[k]], p->slice_row[p->macro_base[macro_b]], a[k]);
    }
    /* Bases last: the rows above were counted from them. From the top, as a base is the lowest of its macro. */
    for (int k = n - 1; k >= 0; k--) {
        int macro_a = p->slice_macro[a[k]], macro_b = p->slice_macro[b[k]];
        int a_begins = macro_a >= 0 && p->macro_base[macro_a] == a[k];
        int b_begins = macro_b >= 0 && p->macro_base[macro_b] == b[k];
        if (a_begins) p->macro_base[macro_a] = b[k];
        if (b_begins) p->macro_base[macro_b] = a[k];
        p->slice_macro[a[k]] = macro_b;
        p->slice_macro[b[k]] = macro_a;
    }
}

/* Whether all macros in n slices from ``base`` on end there, and may go to ``others``. */
static int can_go(const placement *p, const int *slices, const int *others, int n) {
    for (int k = 0; k < n; k++) {
        int macro = p->slice_macro[slices[k]];
        if (macro < 0) continue;
        int row = p->slice_row[p->macro_base[macro]], first = p->slice_row[slices[0]];
        if (row < first || row + p->macro_length[macro] > first + n) return 0;
        if (p->macro_needs_memory[macro] && !p->slice_has_memory[others[k]]) return 0;
    }
    return 1;
}

static int exchange_slices(annealer *s, int a, int b, int n) {
    placement *p = s->p;
    enum { HIGHEST = 64 };
    int slices_a[HIGHEST], slices_b[HIGHEST];
    int row_a = p->slice_row[a], row_b = p->slice_row[b];
    int stack_a = 2 * p->slice_column[a] + p->slice_half[a], stack_b = 2 * p->slice_column[b] + p->slice_half[b];
    if (n > HIGHEST || row_a + n > p->rows || row_b + n > p->rows) return 0;
    if (stack_a == stack_b && abs(row_a - row_b) < n) return 0;
    for (int k = 0; k < n; k++) {
        slices_a[k] = p->slice_at[stack_a * p->rows + row_a + k];
        slices_b[k] = p->slice_at[stack_b * p->rows + row_b + k];
        if (slices_a[k] < 0 || slices_b[k] < 0) return 0;
    }
    if (!can_go(p, slices_a, slices_b, n) || !can_go(p, slices_b, slices_a, n)) return 0;
    s->n_moved = 0;
    exchange_contents(s, slices_a, slices_b, n);
    if (accept(s)) return 1;
    s->n_moved = 0;
    exchange_contents(s, slices_a, slices_b, n);
    return 0;
}

static void put_ram(annealer *s, int at, int ram) {
    s->p->ram_at[at] = ram;
    if (ram >= 0) put(s, s->p->ram_cell[ram], s->p->slices + at);
}

static int exchange_rams(annealer *s, int a, int b) {
    int ram_a = s->p->ram_at[a], ram_b = s->p->ram_at[b];
    if (a == b) return 0;
    s->n_moved = 0;
    put_ram(s, a, ram_b), put_ram(s, b, ram_a);
    if (accept(s)) return 1;
    s->n_moved = 0;
    put_ram(s, a, ram_a), put_ram(s, b, ram_b);
    return 0;
}

static int clamp(int value, int end) { return value < 0 ? 0 : value >= end ? end - 1 : value; }

/* A slice near the cell, near something that a heavy wire connects it with, or on the way there. -1: none there. */
static int aim(annealer *s, int cell) {
    const placement *p = s->p;
    int x = s->x[cell], y = s->y[cell];
    int first = p->cell_arcs[cell], count = p->cell_arcs[cell + 1] - first;
    if (count > 0 && below(s, 4)) {
        int arc = p->arcs_of_cells[first + below(s, count)];
        for (int k = 0; k < 3; k++) {
            int other = p->arcs_of_cells[first + below(s, count)];
            if (s->weight[other] > s->weight[arc]) arc = other;
        }
        int other = p->arc_source[arc] == cell ? p->arc_sink[arc] : p->arc_source[arc];
        double part = below(s, 2) ? fraction(s) : 1.0;
        x += (int)((s->x[other] - x) * part);
        y += (int)((s->y[other] - y) * part);
    }
    /* Columns are about three times as far apart as rows. */
    int wide = (int)(s->spread / 3) + 1, high = (int)s->spread + 1;
    int column = clamp(s->column_at[x] + below(s, 2 * wide + 1) - wide, p->columns);
    int row = clamp(s->row_at[y] + below(s, 2 * high + 1) - high, p->rows);
    return p->slice_at[(2 * column + below(s, 2)) * p->rows + row];
}

static void move(annealer *s) {
    placement *p = s->p;
    int kind = below(s, 1000);
    if (kind < 10 && p->rams) {
        int site = p->cell_site[p->ram_cell[below(s, p->rams)]] - p->slices;
        exchange_rams(s, site, below(s, p->ram_sites));
    } else if (kind < 120 && p->macros) {
        int macro = below(s, p->macros), k = p->macro_first[macro];
        int begin = p->macro_slice_cells[k], end = p->macro_slice_cells[k + p->macro_length[macro]];
        int slice = aim(s, p->macro_cells[begin + below(s, end - begin)]);
        if (slice >= 0) exchange_slices(s, p->macro_base[macro], slice, p->macro_length[macro]);
    } else if (p->luts + p->ffs) {
        int unit = below(s, p->luts + p->ffs), is_lut = unit < p->luts;
        int from = is_lut ? p->lut_position[unit] : p->ff_position[unit - p->luts];
        int slice = aim(s, is_lut ? one_of(p->lut_cells, unit) : one_of(p->ff_cells, unit - p->luts));
        if (slice < 0 || p->slice_macro[slice] >= 0) return;
        int to = 4 * slice + below(s, 4), what = is_lut ? LUTS : FFS;
        if (are_coupled(p, p->position_lut[from], p->position_ff[from]) ||
            are_coupled(p, p->position_lut[to], p->position_ff[to]) || !below(s, 4))
            what = BOTH;
        /* Often refused because of the flip-flops' control; whole slices can go anywhere. */
        if (!exchange_positions(s, from, to, what) && what == BOTH && kind < 300) exchange_slices(s, from / 4, slice, 1);
    }
}

static void weigh(annealer *s, double goal) {
    const placement *p = s->p;
    double timing = 0, wires = 0;
    for (int a = 0; a < p->arcs; a++) {
        double by_goal = path(s, a) / goal;
        double grown = s->grown[a] * exp(GROWTH * (by_goal - 1));
        s->grown[a] = grown < 1 ? 1 : grown > MOST ? MOST : grown;
        double weight = s->grown[a] * pow(by_goal, POWER);
        s->weight[a] = weight < LEAST ? LEAST : weight;
        timing += s->weight[a] * s->wire[a];
    }
    for (int n = 0; n < p->nets; n++) wires += s->length[n] = length(s, n);
    s->timing_scale = SHARE / timing;
    s->length_scale = (1 - SHARE) / (wires > 0 ? wires : 1);
}

static int *nearest(const int32_t *at, const int32_t *number, int sites, int end) {
    int *found = malloc(sizeof(int) * (size_t)end);
    for (int v = 0; v < end; v++) {
        int best = 1 << 30;
        for (int k = 0; k < sites; k++) {
            if (abs(at[k] - v) < best) best = abs(at[k] - v), found[v] = number[k];
        }
    }
    return found;
}

static annealer *begin(placement *p, uint64_t seed) {
    annealer *s = calloc(1, sizeof *s);
    s->p = p;
    s->random = seed * 0x9E3779B97F4A7C15u + 1;
    for (int k = 0; k < 10; k++) next(s);
    s->x = malloc(sizeof(int) * p->cells), s->y = malloc(sizeof(int) * p->cells);
    for (int c = 0; c < p->cells; c++) {
        locate(s, c);
        if (s->x[c] > s->last_x) s->last_x = s->x[c];
        if (s->y[c] > s->last_y) s->last_y = s->y[c];
    }
    for (int k = 0; k < p->slices + p->ram_sites; k++) {
        if (p->site_x[k] > s->last_x) s->last_x = p->site_x[k];
        if (p->site_y[k] > s->last_y) s->last_y = p->site_y[k];
    }
    s->column_at = nearest(p->site_x, p->slice_column, p->slices, s->last_x + 1);
    s->row_at = nearest(p->site_y, p->slice_row, p->slices, s->last_y + 1);
    s->wire = malloc(sizeof(float) * p->arcs), s->new_wire = malloc(sizeof(float) * p->arcs);
    s->arrival = malloc(sizeof(float) * p->nodes), s->tail = malloc(sizeof(float) * p->nodes);
    s->weight = malloc(sizeof(double) * p->arcs), s->grown = malloc(sizeof(double) * p->arcs);
    s->length = malloc(sizeof(double) * p->nets), s->new_length = malloc(sizeof(double) * p->nets);
    s->arcs = malloc(sizeof(int) * p->arcs), s->nets = malloc(sizeof(int) * p->nets);
    s->arc_seen = calloc(p->arcs, sizeof(int)), s->net_seen = calloc(p->nets, sizeof(int));
    for (int a = 0; a < p->arcs; a++) s->grown[a] = 1;
    return s;
}

static void end(annealer *s) {
    void *owned[] = {s->x, s->y, s->column_at, s->row_at, s->wire, s->new_wire, s->arrival, s->tail, s->weight,
                     s->grown, s->length, s->new_length, s->arcs, s->nets, s->arc_seen, s->net_seen, s};
    for (size_t k = 0; k < sizeof owned / sizeof *owned; k++) free(owned[k]);
}

double anneal(placement *p, uint64_t seed, double goal, int epochs, int effort) {
    annealer *s = begin(p, seed);
    size_t size = sizeof(int32_t) * p->cells;
    int32_t *best_site = malloc(size), *best_position = malloc(size);
    double best = HUGE_VAL;
    long moves = (long)effort * (p->luts + p->ffs) / 2;
    for (int epoch = 0; epoch <= epochs; epoch++) {
        analyse(s);
        if (s->worst < best) {
            best = s->worst;
            memcpy(best_site, p->cell_site, size);
            memcpy(best_position, p->cell_position, size);
        }
        if (epoch == epochs) break;
        weigh(s, goal);
        double phase = epochs > GREEDY && epoch < epochs - GREEDY ? (double)epoch / (epochs - GREEDY) : 1;
        s->temperature = phase < 1 ? HOT * pow(COLD / HOT, phase) : 0;
        s->spread = FAR * pow(NEAR / FAR, phase);
        for (long k = 0; k < moves; k++) move(s);
    }
    memcpy(p->cell_site, best_site, size);
    memcpy(p->cell_position, best_position, size);
    free(best_site);
    free(best_position);
    end(s);
    return best;
}

void paths(placement *p, float *longest) {
    annealer *s = begin(p, 1);
    analyse(s);
    for (int a = 0; a < p->arcs; a++) longest[a] = (float)path(s, a);
    end(s);
}
