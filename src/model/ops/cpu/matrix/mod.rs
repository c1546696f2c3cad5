//! Strided matrix views over slices, and sums of their products: by the processor's tile unit where
//! it has one and the matrices are large enough to fill it, else by the `gemm` crate.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod pack;

use std::marker::PhantomData;
use std::mem::MaybeUninit;

use gemm::Parallelism;

/// A read-only strided matrix. One of the strides is 1.
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
    /// Valid for writes to all rows and columns, and for reads too where it came from floats.
    data: *mut f32,
    rows: usize,
    cols: usize,
    row_stride: usize,
    borrowed: PhantomData<&'a mut [f32]>,
}

impl<'a> MatrixMut<'a> {
    /// Rows `row_stride` apart.
    pub(super) fn new(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        let needed = if rows == 0 { 0 } else { (rows - 1) * row_stride + cols };
        assert!(data.len() >= needed, "destination too short");
        Self { data: data.as_mut_ptr(), rows, cols, row_stride, borrowed: PhantomData }
    }

    /// Rows without gaps.
    pub(super) fn dense(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self::new(data, rows, cols, cols)
    }

    /// The spare room of a vector, which nothing has written to yet.
    fn unwritten(data: &'a mut [MaybeUninit<f32>], rows: usize, cols: usize) -> Self {
        assert!(data.len() >= rows * cols, "destination too short");
        Self { data: data.as_mut_ptr().cast(), rows, cols, row_stride: cols, borrowed: PhantomData }
    }

    fn reborrow(&mut self) -> MatrixMut<'_> {
        MatrixMut { ..*self }
    }
}

/// Whether a product may use all cores.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cores {
    /// The calling thread's alone: for products that themselves run side by side.
    One,
    /// All of them.
    All,
}

impl Cores {
    fn for_gemm(self) -> Parallelism {
        match (self, rayon::current_num_threads()) {
            (Self::One, _) | (Self::All, 1) => Parallelism::None,
            (Self::All, threads) => Parallelism::Rayon(threads),
        }
    }
}

/// With fewer rows, laying out the right operand would cost more than the product.
const MIN_TILED_ROWS: usize = 32;
/// Fewer columns do not fill a tile.
const MIN_TILED: usize = 16;

/// Whether large products go to the tile unit: where it is, unless the user wants the same results
/// as on machines without it.
#[cfg(target_arch = "x86_64")]
fn tile_unit() -> bool {
    static USED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *USED.get_or_init(|| {
        let chosen = std::env::var("NIGHTSCHOOL_MATMUL_UNIT");
        chosen.as_deref() != Ok("vector") && tiles_available()
    })
}

/// A left operand, laid out once for several products.
pub(super) struct Left<'a> {
    matrix: Matrix<'a>,
    #[cfg(target_arch = "x86_64")]
    panels: Option<pack::Panels>,
}

impl<'a> Left<'a> {
    /// Lays `matrix` out for the tile unit, where that is worth it.
    pub(super) fn new(matrix: Matrix<'a>, cores: Cores) -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let tiled = matrix.rows >= MIN_TILED_ROWS && matrix.cols > 0;
            let panels = (tiled && tile_unit()).then(|| pack::left(matrix, cores));
            Self { matrix, panels }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = cores;
            Self { matrix }
        }
    }
}

/// dst ← alpha · Σ lhs · rhs over the terms, at least one; added to dst's values when `accumulate`.
pub(super) fn sum_of_products(
    mut dst: MatrixMut<'_>,
    accumulate: bool,
    alpha: f32,
    terms: &[(&Left<'_>, Matrix<'_>)],
    cores: Cores,
) {
    assert!(!terms.is_empty(), "a sum of nothing");
    for (lhs, rhs) in terms {
        let lhs = lhs.matrix;
        assert!(lhs.cols == rhs.rows && dst.rows == lhs.rows && dst.cols == rhs.cols, "shapes");
    }
    if dst.rows == 0 || dst.cols == 0 {
        return;
    }
    let mut accumulate = accumulate;
    #[cfg(target_arch = "x86_64")]
    let terms = {
        let (mut tiled, mut others) = (Vec::new(), Vec::new());
        for (lhs, rhs) in terms {
            match &lhs.panels {
                Some(panels) if dst.cols >= MIN_TILED => tiled.push((panels, *rhs)),
                _ => others.push((*lhs, *rhs)),
            }
        }
        if !tiled.is_empty() {
            amx::sum_of_products(dst.reborrow(), accumulate, alpha, &tiled, cores);
            accumulate = true;
        }
        others
    };
    for &(lhs, rhs) in terms.iter() {
        // SAFETY: the shapes were checked above.
        unsafe { vector_product(dst.reborrow(), accumulate, alpha, lhs.matrix, rhs, cores) };
        accumulate = true;
    }
}

/// dst ← alpha · lhs · rhs, or dst ← dst + alpha · lhs · rhs when `accumulate`.
pub(super) fn product(
    dst: MatrixMut<'_>,
    accumulate: bool,
    alpha: f32,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    cores: Cores,
) {
    sum_of_products(dst, accumulate, alpha, &[(&Left::new(lhs, cores), rhs)], cores);
}

/// alpha · lhs · rhs as a new row-major buffer.
pub(super) fn multiply(alpha: f32, lhs: &Left<'_>, rhs: Matrix<'_>, cores: Cores) -> Vec<f32> {
    new_sum(alpha, &[(lhs, rhs)], cores)
}

/// alpha · Σ lhs · rhs over the terms, at least one, as a new row-major buffer.
pub(super) fn new_sum(alpha: f32, terms: &[(&Left<'_>, Matrix<'_>)], cores: Cores) -> Vec<f32> {
    let (rows, cols) = (terms[0].0.matrix.rows, terms[0].1.cols);
    let mut dst = Vec::with_capacity(rows * cols);
    let spare = MatrixMut::unwritten(dst.spare_capacity_mut(), rows, cols);
    sum_of_products(spare, false, alpha, terms, cores);
    // SAFETY: the product has written every value.
    unsafe { dst.set_len(rows * cols) };
    dst
}

/// The product by vector instructions.
///
/// # Safety
/// The shapes must fit.
unsafe fn vector_product(
    dst: MatrixMut<'_>,
    accumulate: bool,
    alpha: f32,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    cores: Cores,
) {
    // SAFETY: views lie within what they index, by their constructors; the destination is borrowed
    // mutably so it overlaps neither operand, and is only written to unless it accumulates.
    unsafe {
        gemm::gemm(
            dst.rows,
            dst.cols,
            lhs.cols,
            dst.data,
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
            cores.for_gemm(),
        );
    }
}

/// Whether the processor has a tile unit that this process may use.
pub fn tiles_available() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        static AVAILABLE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
        *AVAILABLE.get_or_init(crate::model::tile_unit::available)
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// What large matrix products run on: `amx` for the tile unit, `vector` for vector instructions.
pub fn matmul_unit() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    if tile_unit() {
        return "amx";
    }
    "vector"
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::Rng as _;

    use super::*;
    use crate::rng;

    fn random(len: usize, label: &str) -> Vec<f32> {
        let mut draws = rng::stream(1, &["matrix", label, &len.to_string()]);
        (0..len).map(|_| draws.random_range(-1.0..1.0)).collect()
    }

    /// A matrix of the given size within wider rows, or the transpose of one.
    fn view(data: &[f32], rows: usize, cols: usize, transposed: bool) -> Matrix<'_> {
        match transposed {
            false => Matrix::new(data, rows, cols, cols + 3),
            true => Matrix::new(data, cols, rows, rows + 3).t(),
        }
    }

    impl Matrix<'_> {
        fn at(&self, row: usize, col: usize) -> f64 {
            f64::from(self.data[row * self.row_stride + col * self.col_stride])
        }
    }

    proptest! {
        /// On both units, where there are two: any size, stride and direction; values past the
        /// edges stay as they were.
        #[test]
        fn products_equal_their_definition(
            rows in 1_usize..90,
            cols in 1_usize..90,
            inner in 1_usize..230,
            flips in any::<[bool; 2]>(),
            accumulate: bool,
            all_cores: bool,
        ) {
            let cores = if all_cores { Cores::All } else { Cores::One };
            let room = (rows.max(inner) + 3) * (cols.max(inner) + rows + 3);
            let (a, b) = (random(room, "a"), random(room, "b"));
            let lhs = view(&a, rows, inner, flips[0]);
            let rhs = view(&b, inner, cols, flips[1]);
            let width = cols + 2;
            let before = random(rows * width, "dst");
            let mut vector = Left::new(lhs, cores);
            #[cfg(target_arch = "x86_64")]
            {
                vector.panels = None;
            }
            for left in [Left::new(lhs, cores), vector] {
                let mut found = before.clone();
                let dst = MatrixMut::new(&mut found, rows, cols, width);
                sum_of_products(dst, accumulate, 0.5, &[(&left, rhs), (&left, rhs)], cores);
                for (index, (found, before)) in found.iter().zip(&before).enumerate() {
                    let (row, col) = (index / width, index % width);
                    if col >= cols {
                        prop_assert_eq!(found, before);
                        continue;
                    }
                    let dot: f64 = (0..inner).map(|k| lhs.at(row, k) * rhs.at(k, col)).sum();
                    let expected = dot + if accumulate { f64::from(*before) } else { 0.0 };
                    let error = (f64::from(*found) - expected).abs();
                    prop_assert!(error < 1e-5 * inner as f64 + 1e-6, "({row}, {col}): {error}");
                }
            }
        }
    }
}
