//! Integers in decimal without the machinery of `fmt`, for replies on the hot path.

/// The text of an integer, held in place.
pub(crate) struct Decimal {
    digits: [u8; 20],
    start: usize,
}

impl Decimal {
    pub(crate) fn new(value: i64) -> Decimal {
        let mut digits = [0; 20];
        let mut start = digits.len();
        let mut rest = value.unsigned_abs();
        // 19 digits and a sign always fit.
        for slot in digits.iter_mut().rev() {
            *slot = b'0' + (rest % 10) as u8;
            start -= 1;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if value < 0
            && let Some(sign) = start.checked_sub(1)
            && let Some(slot) = digits.get_mut(sign)
        {
            *slot = b'-';
            start = sign;
        }
        Decimal { digits, start }
    }

    pub(crate) fn as_str(&self) -> &str {
        self.digits.get(self.start..).and_then(|digits| std::str::from_utf8(digits).ok()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_display_does() {
        for value in [0, 1, -1, 9, 10, -10, 479, 200_050, i64::from(i32::MIN), i64::MAX, i64::MIN] {
            assert_eq!(Decimal::new(value).as_str(), value.to_string());
        }
    }
}
