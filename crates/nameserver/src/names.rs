//! What may stand in a registration. Names become map keys, JSON and log lines, never paths; still
//! nothing gets in that could be taken for one (reliability.md S3).

use std::net::IpAddr;

use crate::limits::NAME_BYTES_MAX;

/// A topic, broker or cluster name. Wider than what clients may create: brokers are called after
/// hosts (dots), and make retry topics with '+' themselves.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'%' | b'|' | b'_' | b'-' | b'+' | b'.')
        })
        && !name.contains("..")
}

/// "host:port", where an IPv6 host stands in brackets or bare, as Java writes it.
pub(crate) fn is_address(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else {
        return false;
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    address.len() <= NAME_BYTES_MAX
        && port.bytes().all(|byte| byte.is_ascii_digit())
        && port.parse::<u16>().is_ok_and(|port| port > 0)
        && (bare.parse::<IpAddr>().is_ok() || (bare == host && is_host(host)))
}

fn is_host(host: &str) -> bool {
    !host.is_empty()
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
        && !host.contains("..")
}

/// Free text that is passed on: an HA address, a zone, a key.
pub(crate) fn is_text(text: &str) -> bool {
    text.len() <= NAME_BYTES_MAX && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in
            ["broker-a", "node1.example.com", "%RETRY%g", "TBW102", "%RETRY%g+t", "a|b", "rmq_sys_X", "1"]
        {
            assert!(is_name(good), "{good}");
        }
        let long = "x".repeat(256);
        for bad in ["", "../x", "..", "a/b", "a\0b", "a b", "a\"b", "ü", "a\nb", "{}", "a:b", &long] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn addresses() {
        for good in ["127.0.0.1:10911", "[::1]:10911", "::1:10911", "broker-0.ns.svc:1", "localhost:65535"] {
            assert!(is_address(good), "{good}");
        }
        for bad in [
            "",
            "127.0.0.1",
            "127.0.0.1:",
            ":1",
            "host:0",
            "host:65536",
            "host:+1",
            "a b:1",
            "a/b:1",
            "[x]:1",
            "x}:1",
            "\":1",
        ] {
            assert!(!is_address(bad), "{bad}");
        }
    }
}
