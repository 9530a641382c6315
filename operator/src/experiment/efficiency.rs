//! Every ratio of energy, tokens, time and FLOPs (METHODOLOGY §7): formed here and nowhere else. Pure.

use lem_crds::{experiment::Pricing, metrics::Unavailable};

use super::availability::{Value, product, ratio, ratio_or};

/// Joules in a kilowatt-hour.
pub(super) const JOULES_PER_KILOWATT_HOUR: f64 = 3.6e6;

/// Sums and lengths that the ratios are formed from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Basis<'a> {
    pub(super) total_tokens: Value,
    pub(super) output_tokens: Value,
    pub(super) inference_time: Value,
    pub(super) duration: Value,
    pub(super) total_energy: Value,
    pub(super) adjusted_energy: Value,
    pub(super) flops: Value,
    /// Factor of the compute precision.
    pub(super) precision_factor: Value,
    pub(super) pricing: Option<&'a Pricing>,
}

/// The ratios of METHODOLOGY §3 and §7.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ratios {
    pub(super) tokens_per_second: Value,
    pub(super) output_tokens_per_second: Value,
    pub(super) effective_throughput: Value,
    pub(super) effective_output_throughput: Value,
    pub(super) latency_per_token_ms: Value,
    pub(super) total_power: Value,
    pub(super) flops_per_second: Value,
    pub(super) tokens_per_joule: Value,
    pub(super) output_tokens_per_joule: Value,
    pub(super) joules_per_token: Value,
    pub(super) joules_per_output_token: Value,
    pub(super) adjusted_joules_per_token: Value,
    pub(super) flop_per_joule: Value,
    pub(super) flop_per_token: Value,
    pub(super) watts_per_token_per_second: Value,
    pub(super) token_efficiency_index: Value,
    pub(super) gco2e_per_1k_tokens: Value,
    pub(super) cost_per_1m_tokens: Value,
}

impl Basis<'_> {
    /// Forms every ratio; each missing part gives its reason to the ratios it enters.
    pub(super) fn ratios(&self) -> Ratios {
        let per_token = |value: Value| ratio_or(value, self.total_tokens, Unavailable::NoTokens);
        let tokens_per_second = ratio(self.total_tokens, self.inference_time);
        let effective_throughput = ratio(self.total_tokens, self.duration);
        let effective_output_throughput = ratio(self.output_tokens, self.duration);
        let total_power = ratio(self.total_energy, self.duration);
        let output_tokens_per_joule = ratio(self.output_tokens, self.total_energy);
        let joules_per_token = per_token(self.total_energy);
        Ratios {
            tokens_per_second,
            output_tokens_per_second: ratio(self.output_tokens, self.inference_time),
            effective_throughput,
            effective_output_throughput,
            latency_per_token_ms: ratio_or(Ok(1000.0), tokens_per_second, Unavailable::NoTokens),
            total_power,
            flops_per_second: ratio(self.flops, self.duration),
            tokens_per_joule: ratio(self.total_tokens, self.total_energy),
            output_tokens_per_joule,
            joules_per_token,
            joules_per_output_token: ratio_or(self.total_energy, self.output_tokens, Unavailable::NoTokens),
            adjusted_joules_per_token: per_token(self.adjusted_energy),
            flop_per_joule: ratio(self.flops, self.total_energy),
            flop_per_token: per_token(self.flops),
            watts_per_token_per_second: ratio_or(total_power, effective_throughput, Unavailable::NoTokens),
            token_efficiency_index: product(
                product(effective_output_throughput, output_tokens_per_joule),
                self.precision_factor,
            ),
            gco2e_per_1k_tokens: self.priced(joules_per_token, 1e3, |pricing| {
                pricing
                    .grid_intensity_grams_per_kilowatt_hour
                    .as_ref()
                    .map(lem_crds::quantity::Decimal::get)
            }),
            cost_per_1m_tokens: self.priced(joules_per_token, 1e6, |pricing| {
                pricing
                    .energy_price_per_kilowatt_hour
                    .as_ref()
                    .map(lem_crds::quantity::Decimal::get)
            }),
        }
    }

    /// Energy of `tokens` tokens × PUE × what a kilowatt-hour costs or emits.
    fn priced(&self, joules_per_token: Value, tokens: f64, per_hour: impl Fn(&Pricing) -> Option<f64>) -> Value {
        let pricing = self.pricing.ok_or(Unavailable::NoPricing)?;
        let rate = per_hour(pricing).ok_or(Unavailable::NoPricing)?;
        let kilowatt_hours = joules_per_token? * tokens / JOULES_PER_KILOWATT_HOUR;
        Ok(kilowatt_hours * rate * pricing.power_usage_effectiveness.get())
    }
}

/// Power of one domain over the trial.
pub(super) fn power(energy: Value, duration: Value) -> Value {
    ratio(energy, duration)
}
