//! The report as text.

use std::fmt::Write as _;

use super::verdict::Verdict;

/// What was counted, in words.
pub(crate) fn counts(verdict: &Verdict) -> Vec<(&'static str, String)> {
    vec![
        ("messages acknowledged", verdict.acknowledged.to_string()),
        ("messages read", verdict.read.to_string()),
        ("acknowledged and lost", verdict.lost.len().to_string()),
        ("offsets that cannot be read", verdict.holes.to_string()),
        ("stored twice after an unknown outcome", verdict.duplicates.to_string()),
        ("stored twice without one", verdict.unexplained_duplicates.to_string()),
        ("out of order", verdict.reordered.to_string()),
        ("sends refused and repeated", verdict.refused.to_string()),
        ("sends of unknown outcome, repeated", verdict.unknown.to_string()),
        ("sends never answered", verdict.unanswered.to_string()),
        ("pulls that failed", verdict.read_errors.to_string()),
        ("leaders seen", verdict.leaderships.len().to_string()),
    ]
}

pub(crate) fn text(verdict: &Verdict) -> String {
    let mut text = String::new();
    // Writing into a String cannot fail, here and below.
    let _ = writeln!(text, "drill of group {}, {:.1} s", verdict.group, verdict.seconds);
    let _ = writeln!(
        text,
        "{:<20} {:>6} {:>13} {:>6} {:>13} {:>8} {:>6} {:>13} {:>10} {:>9}",
        "fault", "rounds", "write p50", "p99", "max", "read p50", "p99", "max", "recovered", "elections"
    );
    for s in &verdict.summaries {
        let within =
            |value: f64, bound: f64| format!("{value:.2}≤{bound:.2}{}", if value > bound { "!" } else { "" });
        let _ = writeln!(
            text,
            "{:<20} {:>6} {:>13} {:>6.2} {:>13} {:>8.2} {:>6.2} {:>13} {:>10.1} {:>9}",
            s.fault.name(),
            s.rounds,
            within(s.write_gap_p50_s, s.bounds.write_gap_p50_s),
            s.write_gap_p99_s,
            within(s.write_gap_max_s, s.bounds.write_gap_max_s),
            s.read_gap_p50_s,
            s.read_gap_p99_s,
            within(s.read_gap_max_s, s.bounds.read_gap_max_s),
            s.recovery_max_s,
            s.elections
        );
    }
    for (what, count) in counts(verdict) {
        let _ = writeln!(text, "{count:>8} {what}");
    }
    for lost in verdict.lost.iter().take(20) {
        let _ = writeln!(text, "LOST queue {} value {} offset {}", lost.queue, lost.value, lost.offset);
    }
    let failures = verdict.failures();
    for failure in &failures {
        let _ = writeln!(text, "FAILED: {failure}");
    }
    if failures.is_empty() {
        text.push_str("passed: nothing acknowledged was lost, and every bound was kept (times in seconds)\n");
    }
    text
}
