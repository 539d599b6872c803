/* What placement.py hands to annealing.c; read by cffi as well. Sites are slices, then block RAM sites; a position is
 * one of the four of a slice, with its LUTs and flip-flops: 4 * slice + 0 to 3. -1 is "none" everywhere. */
typedef struct {
    int32_t cells, slices, ram_sites, nodes, arcs, nets, luts, ffs, macros, rams, columns, rows;

    /* The device. x and y in tiles. */
    const int32_t *site_x, *site_y;
    const int32_t *slice_column, *slice_half, *slice_row; /* two halves in a column: the slices of one tile */
    const int32_t *slice_at;                              /* [column][half][row] */
    const uint8_t *slice_has_memory;                      /* whether its LUTs can be RAM */

    /* Cells. Without a site they stay where they are. */
    int32_t *cell_site, *cell_position;
    const int32_t *fixed_x, *fixed_y;

    /* What a position holds: the LUTs (6LUT, 5LUT), and the flip-flops (FF, 5FF). */
    const int32_t *lut_cells, *ff_cells;  /* [][2] */
    const int32_t *lut_output5;           /* net of the 5LUT's output */
    const uint8_t *lut_output5_is_shared; /* whether it has more users than one */
    const int32_t *ff_driver, *ff_net;    /* [][2] of input D: cell, net */
    const int32_t *ff_control;            /* clock, enable and reset: the same for all of a slice */
    int32_t *lut_position, *ff_position;
    int32_t *position_lut, *position_ff;

    /* Macros: slices that move as they are, one above the other: carry chains, LUT RAM, wide multiplexers. */
    const int32_t *macro_length, *macro_first; /* macro_first: index of its first slice in macro_slice_cells */
    const uint8_t *macro_needs_memory;
    const int32_t *macro_slice_cells, *macro_cells; /* for each of their slices, the first of its cells */
    int32_t *macro_base, *slice_macro;

    const int32_t *ram_cell;
    int32_t *ram_at; /* [RAM site] */

    /* Timing, in ns. Nodes are outputs of cells; arcs are a wire and the cell behind it, sorted by where they lead. */
    const float *node_launch;
    const int32_t *arc_from, *arc_to, *arc_source, *arc_sink; /* nodes (to: -1 for an end), and the wire's two cells */
    const float *arc_logic, *arc_wire;                        /* arc_wire: -1 if it depends on the places */
    const float *arc_stretch;                                 /* factor of the wire's delay */
    const int32_t *cell_arcs, *arcs_of_cells;

    /* Nets whose length counts. */
    const int32_t *net_cells, *cells_of_nets, *cell_nets, *nets_of_cells;
} placement;

/* Move cells until paths are short. Returns the longest path in ns, setup included. */
double anneal(placement *p, uint64_t seed, double goal, int epochs, int effort);

/* The longest path through each arc, in ns; 0 for one that is on none. */
void paths(placement *p, float *longest);
