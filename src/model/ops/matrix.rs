//! Strided matrix views over slices, and their product by the `gemm` crate.

use gemm::Parallelism;

/// A read-only strided matrix.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Row-major, rows `row_stride` apart.
    pub(super) fn new(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        let needed = if rows == 0 { 0 } else { (rows - 1) * row_stride + cols };
        assert!(data.len() >= needed, "matrix view past the end of its data");
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// Row-major without gaps.
    pub(super) fn dense(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::new(data, rows, cols, cols)
    }

    /// The transpose, without moving anything.
    pub(super) fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// A row-major destination, rows `row_stride` apart.
pub(super) struct MatrixMut<'a> {
    pub(super) data: &'a mut [f32],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
}

impl<'a> MatrixMut<'a> {
    pub(super) fn dense(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self { data, rows, cols, row_stride: cols }
    }
}

/// All cores, for products large enough to share out.
pub(super) fn all_cores() -> Parallelism {
    match rayon::current_num_threads() {
        1 => Parallelism::None,
        threads => Parallelism::Rayon(threads),
    }
}

/// dst ← alpha · lhs · rhs, or dst ← dst + alpha · lhs · rhs when `accumulate`.
pub(super) fn product(
    dst: MatrixMut<'_>,
    accumulate: bool,
    alpha: f32,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    parallelism: Parallelism,
) {
    assert!(lhs.cols == rhs.rows && dst.rows == lhs.rows && dst.cols == rhs.cols, "shapes");
    if dst.rows == 0 || dst.cols == 0 {
        return;
    }
    assert!(dst.data.len() >= (dst.rows - 1) * dst.row_stride + dst.cols, "destination too short");
    // SAFETY: the three views were checked against the slices they index, the destination is
    // borrowed mutably so it overlaps neither operand, and f32 has no invalid bit patterns.
    unsafe {
        gemm::gemm(
            dst.rows,
            dst.cols,
            lhs.cols,
            dst.data.as_mut_ptr(),
            1,
            dst.row_stride as isize,
            accumulate,
            lhs.data.as_ptr(),
            lhs.col_stride as isize,
            lhs.row_stride as isize,
            rhs.data.as_ptr(),
            rhs.col_stride as isize,
            rhs.row_stride as isize,
            1.0,
            alpha,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// The rate of a large product on all cores, in 1e9 operations a second: the best of several.
pub fn matmul_gflops() -> f64 {
    const SIDE: usize = 1024;
    const REPEATS: usize = 7;
    let (lhs, rhs) = (vec![0.5_f32; SIDE * SIDE], vec![0.25_f32; SIDE * SIDE]);
    let mut out = vec![0.0_f32; SIDE * SIDE];
    let mut multiply = || {
        let start = std::time::Instant::now();
        let (lhs, rhs) = (Matrix::dense(&lhs, SIDE, SIDE), Matrix::dense(&rhs, SIDE, SIDE));
        product(MatrixMut::dense(&mut out, SIDE, SIDE), false, 1.0, lhs, rhs, all_cores());
        start.elapsed().as_secs_f64()
    };
    let best = (0..REPEATS).map(|_| multiply()).fold(f64::INFINITY, f64::min);
    2.0 * (SIDE * SIDE * SIDE) as f64 / best / 1e9
}
