//! The report as one page of HTML: what was measured, and the time line drawn. No script, no other file.

use std::fmt::Write as _;

use super::canary::Seen;
use super::verdict::Verdict;

const WIDTH: f64 = 1100.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 50.0;
const BOTTOM: f64 = 24.0;
/// Bars of the time line.
const BARS: usize = 300;

const STYLE: &str = "body{font:14px system-ui,sans-serif;margin:2em;max-width:75em;color:#222}\
table{border-collapse:collapse;margin:1em 0}td,th{padding:.25em .8em;text-align:right;border-bottom:1px solid #ddd}\
td:first-child,th:first-child{text-align:left}.bad{color:#b00020;font-weight:600}.good{color:#0a7d32;font-weight:600}\
svg{background:#fafafa;border:1px solid #ddd}";

pub(crate) fn page(verdict: &Verdict, seen: &Seen) -> String {
    let failures = verdict.failures();
    let mut html = String::new();
    let title = format!("Drill of group {}", escape(&verdict.group));
    // Writing into a String cannot fail, here and below.
    let _ = write!(
        html,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title><style>{STYLE}</style><h1>{title}</h1>"
    );
    if failures.is_empty() {
        html.push_str("<p class=\"good\">Nothing acknowledged was lost, and every bound was kept.</p>");
    } else {
        html.push_str("<ul class=\"bad\">");
        for failure in &failures {
            let _ = write!(html, "<li>{}</li>", escape(failure));
        }
        html.push_str("</ul>");
    }
    html.push_str(&timeline(verdict, seen));
    html.push_str(
        "<table><tr><th>fault</th><th>rounds</th><th>write gap p50</th><th>p99</th><th>max</th>\
         <th>read gap p50</th><th>p99</th><th>max</th><th>recovered within</th><th>elections</th></tr>",
    );
    for s in &verdict.summaries {
        let cell = |value: f64, bound: f64| {
            let class = if value > bound { "bad" } else { "good" };
            format!("<td class=\"{class}\">{value:.2} s (≤ {bound:.2})</td>")
        };
        let _ = write!(
            html,
            "<tr><td>{}</td><td>{}</td>{}<td>{:.2} s</td>{}<td>{:.2} s</td><td>{:.2} s</td>{}<td>{:.1} s</td><td>{}</td></tr>",
            s.fault.name(),
            s.rounds,
            cell(s.write_gap_p50_s, s.bounds.write_gap_p50_s),
            s.write_gap_p99_s,
            cell(s.write_gap_max_s, s.bounds.write_gap_max_s),
            s.read_gap_p50_s,
            s.read_gap_p99_s,
            cell(s.read_gap_max_s, s.bounds.read_gap_max_s),
            s.recovery_max_s,
            s.elections
        );
    }
    html.push_str("</table><table>");
    for (what, count) in super::report::counts(verdict) {
        let _ = write!(html, "<tr><td>{what}</td><td>{count}</td></tr>");
    }
    html.push_str("</table></html>\n");
    html
}

/// Messages acknowledged (up) and read (down) over time, faults as bands, new leaders as lines.
fn timeline(verdict: &Verdict, seen: &Seen) -> String {
    let span = verdict.seconds.max(0.1);
    let x = |at_s: f64| LEFT + (at_s / span).clamp(0.0, 1.0) * (WIDTH - LEFT);
    let middle = (HEIGHT - BOTTOM) / 2.0;
    let acked = histogram(span, seen.notes.acked.iter().map(|a| a.at_s));
    let read = histogram(span, seen.notes.read.iter().map(|r| r.at_s));
    let top = acked.iter().chain(&read).copied().max().unwrap_or(1).max(1) as f64;
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"100%\" role=\"img\">");
    for round in &verdict.rounds {
        let (from, until, whole) = (x(round.from_s), x(round.until_s), x(round.whole_s));
        let _ = write!(
            svg,
            "<rect x=\"{from:.1}\" y=\"0\" width=\"{:.1}\" height=\"{:.1}\" fill=\"#f6c7c7\"><title>{} of node {}: \
             {:.2} s to {:.2} s</title></rect><rect x=\"{until:.1}\" y=\"0\" width=\"{:.1}\" height=\"{:.1}\" \
             fill=\"#fbeccb\"><title>until whole: {:.2} s</title></rect>",
            (until - from).max(1.0),
            HEIGHT - BOTTOM,
            round.fault.name(),
            round.node,
            round.from_s,
            round.until_s,
            (whole - until).max(0.0),
            HEIGHT - BOTTOM,
            round.recovery_s(),
        );
    }
    let bar = (WIDTH - LEFT) / BARS as f64;
    for (bars, colour, up) in [(&acked, "#2a6fbb", true), (&read, "#5b9a4f", false)] {
        for (number, count) in bars.iter().enumerate() {
            let height = *count as f64 / top * (middle - 4.0);
            let y = if up { middle - height } else { middle };
            let _ = write!(
                svg,
                "<rect x=\"{:.1}\" y=\"{y:.1}\" width=\"{bar:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>",
                LEFT + number as f64 * bar
            );
        }
    }
    for leader in &verdict.leaderships {
        let at = x(leader.at_s);
        let _ = write!(
            svg,
            "<line x1=\"{at:.1}\" y1=\"0\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"#333\" stroke-dasharray=\"3 3\"/>\
             <text x=\"{:.1}\" y=\"12\" font-size=\"11\">node {} leads, term {}</text>",
            HEIGHT - BOTTOM,
            at + 3.0,
            leader.node,
            leader.term
        );
    }
    for tenth in 0..=10 {
        let at_s = span * f64::from(tenth) / 10.0;
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"11\" text-anchor=\"end\">{at_s:.0} s</text>",
            x(at_s),
            HEIGHT - 6.0
        );
    }
    let _ = write!(
        svg,
        "<text x=\"2\" y=\"{:.1}\" font-size=\"11\" fill=\"#2a6fbb\">stored</text>\
         <text x=\"2\" y=\"{:.1}\" font-size=\"11\" fill=\"#5b9a4f\">read</text></svg>",
        middle - 6.0,
        middle + 14.0
    );
    svg
}

fn histogram(span: f64, times: impl Iterator<Item = f64>) -> Vec<u64> {
    let mut bars = vec![0; BARS];
    for at_s in times {
        let number = ((at_s / span * BARS as f64) as usize).min(BARS - 1);
        bars[number] += 1;
    }
    bars
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::canary::{Acked, Notes, Read};
    use super::super::verdict::tests::{judged, round};
    use super::*;

    #[test]
    fn a_page_shows_rounds_and_failures_and_is_whole() {
        let seen = Seen {
            notes: Notes {
                acked: vec![Acked { queue: 0, value: 0, offset: 0, at_s: 1.0, unknown: 0 }],
                read: vec![Read { queue: 0, offset: 0, value: Some(1), at_s: 1.1 }],
                open: Vec::new(),
            },
            begins: vec![0],
            ends: vec![1],
            refused: 0,
            unknown: 0,
            read_errors: 0,
            unread: Vec::new(),
        };
        let html = page(&judged(&seen, vec![round(2.0, 4.0, 5.0)]), &seen);
        for part in ["kill-leader of node 1", "1 acknowledged messages are not where", "</svg>", "</html>"] {
            assert!(html.contains(part), "{part}\n{html}");
        }
        assert_eq!(escape("a<b>&"), "a&lt;b&gt;&amp;");
    }
}
