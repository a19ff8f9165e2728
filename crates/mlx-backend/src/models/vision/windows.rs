//! Which patches attend to each other in the window blocks of Qwen2.5-VL's tower.
//!
//! A frame of merged cells is cut into square windows from the top left; those at the right and
//! bottom edge may be smaller. Upstream lists windows row by row and calls attention once for each.
//! Here windows of equal size stand side by side, so that at most four calls serve them all; since
//! the rotary tables are permuted alike, and the order is undone at the end, the result is the same.

use std::ops::Range;

/// The windows of one frame, those of equal size together.
#[derive(Debug)]
pub(in crate::models) struct Windows {
    /// Cells (row-major index in the frame) in window order.
    cells: Vec<usize>,
    /// Number of windows, and cells of each, of every run of equal windows.
    runs: Vec<(usize, usize)>,
}

impl Windows {
    /// Cuts a frame of `rows` x `columns` cells into windows of `side` x `side`.
    pub(in crate::models) fn new(rows: usize, columns: usize, side: usize) -> Self {
        let starts = |length: usize| (0..length).step_by(side);
        let mut windows: Vec<(Range<usize>, Range<usize>)> = starts(rows)
            .flat_map(|r| starts(columns).map(move |c| (r, c)))
            .map(|(r, c)| (r..rows.min(r + side), c..columns.min(c + side)))
            .collect();
        let size = |(r, c): &(Range<usize>, Range<usize>)| r.len() * c.len();
        // Stable: windows of equal size stay in upstream's order.
        windows.sort_by_key(|w| std::cmp::Reverse(size(w)));
        let runs = windows.chunk_by(|a, b| size(a) == size(b)).map(|w| (w.len(), size(&w[0])));
        let runs = runs.collect();
        let cells = windows
            .into_iter()
            .flat_map(|(r, c)| r.flat_map(move |row| c.clone().map(move |col| row * columns + col)))
            .collect();
        Self { cells, runs }
    }

    /// Returns the index of each patch in window order, `group` patches to a cell.
    pub(in crate::models) fn patch_order(&self, group: usize) -> Vec<i32> {
        self.cells.iter().flat_map(|&c| (c * group..(c + 1) * group).map(|p| p as i32)).collect()
    }

    /// Returns where in window order each cell of the frame is: the inverse permutation.
    pub(in crate::models) fn cell_positions(&self) -> Vec<i32> {
        let mut positions = vec![0; self.cells.len()];
        for (at, &cell) in self.cells.iter().enumerate() {
            positions[cell] = at as i32;
        }
        positions
    }

    /// Returns number of windows and patches of each, for every run of equal windows.
    pub(in crate::models) fn runs(&self, group: i32) -> Vec<(i32, i32)> {
        self.runs.iter().map(|&(n, cells)| (n as i32, cells as i32 * group)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Upstream's order and lengths for a grid of 12 x 20 patches (6 x 10 cells).
    const UPSTREAM: [(usize, &[usize]); 6] = [
        (16, &[0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23, 30, 31, 32, 33]),
        (16, &[4, 5, 6, 7, 14, 15, 16, 17, 24, 25, 26, 27, 34, 35, 36, 37]),
        (8, &[8, 9, 18, 19, 28, 29, 38, 39]),
        (8, &[40, 41, 42, 43, 50, 51, 52, 53]),
        (8, &[44, 45, 46, 47, 54, 55, 56, 57]),
        (4, &[48, 49, 58, 59]),
    ];

    #[test]
    fn windows_hold_upstreams_cells() {
        let windows = Windows::new(6, 10, 4);
        let cells: Vec<usize> =
            UPSTREAM.iter().flat_map(|(_, cells)| cells.iter().copied()).collect();
        assert_eq!(windows.cells, cells);
        assert_eq!(windows.runs(4), [(2, 64), (3, 32), (1, 16)]);
    }

    #[test]
    fn a_frame_that_divides_evenly_has_one_run() {
        let windows = Windows::new(4, 4, 4);
        assert_eq!(windows.runs(4), [(1, 64)]);
        assert_eq!(windows.cells, (0..16).collect::<Vec<_>>());
    }

    #[test]
    fn positions_undo_the_order_and_four_runs_are_enough() {
        for (rows, columns) in [(1, 1), (3, 9), (5, 8), (41, 30), (13, 6)] {
            let windows = Windows::new(rows, columns, 4);
            assert!(windows.runs.len() <= 4, "{rows}x{columns}");
            let positions = windows.cell_positions();
            for (cell, &at) in positions.iter().enumerate() {
                assert_eq!(windows.cells[at as usize], cell, "{rows}x{columns}");
            }
        }
    }
}
