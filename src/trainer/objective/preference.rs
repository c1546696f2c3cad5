//! Direct preference optimisation (Rafailov et al. 2023, equation 7).

use candle_core::Result;
use candle_core::Tensor;
use serde::Deserialize;
use serde::Serialize;

use super::column;
use crate::trainer::batch::Target;

/// Settings of direct preference optimisation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preference {
    /// β: how strongly the policy is held to the base model.
    pub beta: f32,
}

impl Preference {
    /// Σ w · −log σ(β (Δ better − Δ worse)) over pairs, Δ the policy's log-probability of a
    /// continuation less the base's. Continuations 2k and 2k + 1 of the batch are a pair.
    pub(super) fn loss(
        &self,
        logprobs: &Tensor,
        base: &Tensor,
        targets: &[Target],
    ) -> Result<Tensor> {
        let difference: Vec<f32> = (logprobs.detach() - base)?.to_vec1()?;
        let sign = |target: &Target| if target.sequence.is_multiple_of(2) { 1.0 } else { -1.0 };
        let pairs = targets.last().map_or(0, |target| target.sequence as usize / 2 + 1);
        let mut margins = vec![0.0_f64; pairs];
        let mut weights = vec![0.0_f64; pairs];
        for (target, difference) in targets.iter().zip(&difference) {
            let pair = target.sequence as usize / 2;
            margins[pair] += sign(target) * f64::from(*difference);
            weights[pair] = f64::from(target.weight);
        }
        let beta = f64::from(self.beta);
        let value: f64 = margins.iter().zip(&weights).map(|(m, w)| w * softplus(-beta * m)).sum();
        // The gradient −β σ(−β m) is exact here and the loss is convex in m, so the value is
        // carried by a constant and the gradient by a linear term: no overflow, no kink at m = 0.
        let slopes = targets.iter().map(|target| {
            let pair = target.sequence as usize / 2;
            let slope = -beta * weights[pair] / (1.0 + (beta * margins[pair]).exp());
            (slope * sign(target)) as f32
        });
        let linear = (logprobs * column(logprobs, slopes)?)?.sum_all()?;
        let offset = value - f64::from(linear.detach().to_scalar::<f32>()?);
        linear + offset
    }
}

/// log(1 + eˣ).
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}
