"""What is wanted when more comes than can be done."""

from __future__ import annotations

from tests.benchmarks.goals import Aim, Bar, figure

OVERLOAD: tuple[Aim, ...] = (
    Aim(
        "overload",
        "overload: least goodput at 2, 5, 10 and 20 times the capacity, over the best",
        (Bar("", 0.95, 0.98, figure("overload", "goodput_least"), digits=3),),
        lambda r: "; ".join(
            filter(
                None,
                (
                    r.told("capacity {:,.0f}/s", ("overload", "capacity_per_s")),
                    r.told("plain Celery {:.2f}", ("plain_overload", "goodput_least")),
                ),
            )
        ),
    ),
    Aim(
        "overload",
        "the same: from acceptance to outcome; refusals, from the intended send time",
        (
            Bar("ms p99", 3_000, 2_000, figure("overload", "sojourn_p99_ms"), less=True),
            Bar("ms p99", 50, 25, figure("overload", "refused_p99_ms"), less=True, digits=1),
        ),
        lambda r: "",
    ),
    Aim(
        "overload",
        "after the overload, until `normal` again",
        (Bar("s", 30, 10, figure("overload", "normal_again_s"), less=True, digits=1),),
        lambda r: r.told(
            "receipt p50 at half load {:.1f} ms then, {:.1f} ms at full load before",
            ("overload", "calm_p50_ms"),
            ("overload", "before_p50_ms"),
        ),
    ),
    Aim(
        "storm",
        "retry storm at 0.8 times the capacity after 10 s without PostgreSQL: until all is well",
        (
            Bar("s", 30, 15, figure("storm", "recover_s"), less=True, digits=1),
            Bar("of the goodput before", 0.95, 0.99, figure("storm", "goodput_after"), digits=3),
            Bar("receipts lost", 0, 0, figure("storm", "lost"), less=True),
            Bar("audit violations", 0, 0, figure("storm", "violations"), less=True),
        ),
        lambda r: r.told(
            "every order with a coupon {:.1f} s, without one {:.1f} s, with a forged one {:.1f} s; "
            "served in time {:.3f} before, {:.3f} after",
            ("storm", "coupon_recover_s"),
            ("storm", "bare_recover_s"),
            ("storm", "forged_recover_s"),
            ("storm", "coupon_before"),
            ("storm", "coupon_after"),
        ),
    ),
    Aim(
        "issuance",
        "issuance at 3 times the capacity: paused by load, resumed by calm",
        (
            Bar("s to pause", 5, 3, figure("issuance", "paused_after_s"), less=True, digits=1),
            Bar("s to resume", 30, 15, figure("issuance", "resumed_after_s"), less=True, digits=1),
        ),
        lambda r: "",
    ),
    Aim(
        "issuance",
        "the same: coupons redeemed meanwhile, over the capacity, in the slowest 5 s",
        (Bar("", 0.9, 0.95, figure("issuance", "redemption_least"), digits=3),),
        lambda r: r.told(
            "{:,.0f}/s of {:,.0f}/s",
            ("issuance", "redeemed_least_per_s"),
            ("issuance", "capacity_per_s"),
        ),
    ),
    Aim(
        "issuance",
        "an operator's pause holds in calm, through kills of API and governor and an empty Valkey",
        (Bar("held", 1, 1, figure("issuance", "operator_held")),),
        lambda r: "",
    ),
    Aim(
        "greedy",
        "a modest gateway beside one that sends 20 times its quota: goodput over that alone",
        (
            Bar("", 0.95, 0.99, figure("greedy", "kept"), digits=3),
            Bar("with a wide quota", 0.95, 0.99, figure("greedy", "wide_kept"), digits=3),
        ),
        lambda r: r.told(
            "served in time {:.3f} alone, {:.3f} beside, {:.3f} beside one whose quota is all the "
            "capacity; refused {:,.0f}, {:,.0f}, {:,.0f}",
            ("greedy", "alone"),
            ("greedy", "beside"),
            ("greedy", "wide"),
            ("greedy", "alone_refused"),
            ("greedy", "beside_refused"),
            ("greedy", "wide_refused"),
        ),
    ),
    Aim(
        "scarce",
        "40,000 buyers of 1,000 units: told to wait though the units in flight cover the stock",
        (
            Bar("told so", 0, 0, figure("scarce", "waits_after_covered"), less=True),
            Bar("units sold too many", 0, 0, figure("scarce", "oversold"), less=True),
            Bar("units left over", 0, 0, figure("scarce", "unsold"), less=True),
        ),
        lambda r: r.told(
            "{:,.0f} buyers, {:,.0f} units, {:,.0f} sold at {:,.0f}/s; {:,.0f} told to wait before, "
            "{:,.0f} of {:,.0f} appointments for when all was gone",
            ("scarce", "buyers"),
            ("scarce", "units"),
            ("scarce", "sold"),
            ("scarce", "sold_per_s"),
            ("scarce", "waits"),
            ("scarce", "appointments_too_late"),
            ("scarce", "appointments"),
        ),
    ),
    Aim(
        "scarce",
        "the same: from the last sale until nobody hears anything but a final `sold_out`",
        (Bar("ms", 1_000, 500, figure("scarce", "sold_out_lag_ms"), less=True),),
        lambda r: r.told(
            "`likely_sold_out` {:,.0f} times, `sold_out` {:,.0f} times; any no within {:.1f} ms p99",
            ("scarce", "likely_sold_out"),
            ("scarce", "sold_out"),
            ("scarce", "no_p99_ms"),
        ),
    ),
    Aim(
        "faults",
        "kills of governor, Valkey and an API process, and an empty Valkey, at 10 times the capacity",
        (
            Bar(
                "of the bound in flight",
                1,
                1,
                figure("faults", "in_flight_over_bound"),
                less=True,
                digits=2,
            ),
            Bar("s until reconciled", 10, 5, figure("faults", "reconciled_s"), less=True, digits=1),
            Bar("windows over the pace", 0, 0, figure("faults", "windows_over_pace"), less=True),
            Bar("receipts without outcome", 0, 0, figure("faults", "receipts_broken"), less=True),
            Bar("audit clean", 1, 1, figure("faults", "audit_clean")),
            Bar(
                "s until `normal`", 30, 15, figure("faults", "normal_again_s"), less=True, digits=1
            ),
        ),
        lambda r: r.told(
            "goodput over that before ({:,.0f}/s, offered {:.1f} times that): governor {:.2f}, "
            "Valkey {:.2f}, API process {:.2f}, empty Valkey {:.2f}; {:,.0f} windows, {:,.0f}/s at "
            "most",
            ("faults", "before_per_s"),
            ("faults", "times"),
            ("faults", "governor killed, over before"),
            ("faults", "Valkey killed, over before"),
            ("faults", "API process killed, over before"),
            ("faults", "Valkey emptied, over before"),
            ("faults", "windows"),
            ("faults", "pace_max_per_s"),
        ),
    ),
    Aim(
        "appointments",
        "3 times the capacity for a minute: admitted at once, of those who come in their window",
        (Bar("", 0.95, 0.99, figure("appointments", "admitted_at_once"), digits=3),),
        lambda r: r.told(
            "{:,.0f} came; {:.2f} windows for each refusal, {:.0f} s ahead p50 and {:.0f} s p99; from "
            "arrival to outcome {:.2f} s p50 and {:.2f} s p99",
            ("appointments", "came"),
            ("appointments", "tickets_per_refusal"),
            ("appointments", "lead_p50_s"),
            ("appointments", "lead_p99_s"),
            ("appointments", "arrival_to_outcome_p50_s"),
            ("appointments", "arrival_to_outcome_p99_s"),
        ),
    ),
    Aim(
        "appointments",
        "the same, one window in ten unused: share of the capacity that is idle",
        (Bar("", 0.05, 0.02, figure("appointments", "idle_share"), less=True, digits=3),),
        lambda r: r.told(
            "{:,.0f}/s; {:,.0f}/s probed, {:,.0f}/s where nobody comes back",
            ("appointments", "goodput_per_s"),
            ("appointments", "probed_per_s"),
            ("appointments", "nobody_back_per_s"),
        ),
    ),
)
