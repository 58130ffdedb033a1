//! What do many noisy measurements say?
//!
//! Rates of one round are taken close to one another, in an order that is shuffled anew each time,
//! so what the machine's other users do meets all of them. The ratio of a round is free of it for
//! the most part; the median of the rounds' ratios is the result, and its 95 % interval is found by
//! drawing rounds again and again (bootstrap).

use podwall_compile::testing::dice::Dice;
use serde::{Deserialize, Serialize};

/// A value with the interval in which it lies with 95 %.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Estimate {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

/// The value below which `share` of 1 of them lie; NaN of none.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    // Shares and counts are small; the nearest one is meant.
    let at = (share * last as f64).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// The median; of an even number the mean of the middle two.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The median of values and how sure it is.
pub(crate) fn estimate(values: &[f64]) -> Estimate {
    const DRAWS: usize = 500;
    let mut dice = Dice::seeded(values.len() as u64);
    let mut medians = Vec::with_capacity(DRAWS);
    if values.is_empty() {
        return Estimate { median: f64::NAN, low: f64::NAN, high: f64::NAN };
    }
    for _ in 0..DRAWS {
        let drawn: Vec<f64> = values.iter().map(|_| *dice.pick(values)).collect();
        medians.push(median(&drawn));
    }
    Estimate {
        median: median(values),
        low: quantile(&medians, 0.025),
        high: quantile(&medians, 0.975),
    }
}

/// The ratio to a base, round by round. Of several bases their mean counts.
pub(crate) fn ratio(values: &[f64], bases: &[&[f64]]) -> Estimate {
    let ratios: Vec<f64> = values
        .iter()
        .enumerate()
        .filter_map(|(round, value)| {
            let of_round: Vec<f64> = bases.iter().filter_map(|b| b.get(round).copied()).collect();
            let base = of_round.iter().sum::<f64>() / of_round.len() as f64;
            (base > 0.0).then_some(value / base)
        })
        .collect();
    estimate(&ratios)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_hour_of_the_machine_does_not_change_ratios() {
        let base: Vec<f64> = (1..=40).map(|n| f64::from(n) * 10.0).collect();
        let half: Vec<f64> = base.iter().map(|b| b / 2.0).collect();
        let found = ratio(&half, &[&base, &base]);
        assert_eq!(found, Estimate { median: 0.5, low: 0.5, high: 0.5 });
    }

    #[test]
    fn medians_and_quantiles() {
        assert!((median(&[3.0, 1.0, 2.0, 10.0]) - 2.5).abs() < 1e-9);
        assert!((quantile(&[5.0, 1.0, 3.0], 1.0) - 5.0).abs() < 1e-9);
        let noisy = estimate(&[1.0, 2.0, 3.0, 4.0, 100.0]);
        assert!(noisy.low <= 3.0 && noisy.high >= 3.0 && (noisy.median - 3.0).abs() < 1e-9);
    }
}
