//! Quantised matrices as their file stores them, against what candle dequantises them to.

use candle_core::Device;
use candle_core::Tensor;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::QTensor;
use nightschool::model::stored::BYTE_BLOCK;
use nightschool::model::stored::Bits;
use nightschool::model::stored::NIBBLE_BLOCK;
use nightschool::model::stored::StoredMatrix;
use nightschool::model::stored::StoredRow;
use nightschool::rng;
use rand::Rng as _;

const ROWS: usize = 5;
const INNER: usize = 512;

fn matrix(dtype: GgmlDType) -> QTensor {
    let mut draws = rng::stream(1, &["stored", &format!("{dtype:?}")]);
    let values: Vec<f32> = (0..ROWS * INNER).map(|_| draws.random_range(-2.0..3.0)).collect();
    let tensor = Tensor::from_vec(values, (ROWS, INNER), &Device::Cpu).unwrap();
    QTensor::quantize(&tensor, dtype).unwrap()
}

fn values(row: &StoredRow, bits: Bits) -> Vec<f32> {
    let quants = row.quants.iter().enumerate();
    let value = |(at, quant): (usize, &u8)| match bits {
        Bits::Four => {
            let block = at / NIBBLE_BLOCK;
            f32::from(*quant) * row.scales[block] + row.offsets[block]
        }
        Bits::Eight => f32::from(quant.cast_signed()) * row.scales[at / BYTE_BLOCK],
    };
    quants.map(value).collect()
}

#[test]
fn rows_taken_apart_are_what_dequantising_gives() {
    let four = [GgmlDType::Q4_0, GgmlDType::Q4_1, GgmlDType::Q4K].map(|dtype| (dtype, Bits::Four));
    let eight = [GgmlDType::Q8_0, GgmlDType::Q6K].map(|dtype| (dtype, Bits::Eight));
    for (dtype, bits) in four.into_iter().chain(eight) {
        let tensor = matrix(dtype);
        let expected: Vec<Vec<f32>> = tensor.dequantize(&Device::Cpu).unwrap().to_vec2().unwrap();
        let stored = StoredMatrix::of(&tensor).unwrap().unwrap();
        assert_eq!((stored.dims(), stored.bits()), ((ROWS, INNER), bits), "{dtype:?}");
        let order = [3, 0, 4, 1, 2];
        let reordered = stored.reordered(&order);
        for (place, row) in order.into_iter().enumerate() {
            assert_eq!(reordered.row(place), stored.row(row), "{dtype:?}");
            for (found, expected) in values(&stored.row(row), bits).iter().zip(&expected[row]) {
                assert!((found - expected).abs() < 1e-6, "{dtype:?}: {found}, not {expected}");
            }
        }
    }
}

#[test]
fn other_types_are_left_to_be_dequantised() {
    for dtype in [GgmlDType::F16, GgmlDType::Q5_0, GgmlDType::Q5K, GgmlDType::Q2K] {
        assert!(StoredMatrix::of(&matrix(dtype)).unwrap().is_none(), "{dtype:?}");
    }
}
