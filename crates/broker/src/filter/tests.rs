use proptest::prelude::*;

use super::*;

fn compile(text: &str) -> Filter {
    Filter::compile(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Properties written as `name=value`, with commas between.
fn properties(text: &str) -> String {
    let pairs = text.split(',').filter(|pair| !pair.is_empty());
    wire::properties_from(pairs.map(|pair| pair.split_once('=').expect("name=value")))
}

fn check(expression: &str, cases: &[(&str, bool)]) {
    let filter = compile(expression);
    for (given, want) in cases {
        assert_eq!(filter.matches(&properties(given)), *want, "{expression} of {given}");
    }
}

#[test]
fn comparisons() {
    check("a = 5", &[("a=5", true), ("a=+5", true), ("a=005", true), ("a=6", false), ("a=5.0", false)]);
    check("a = 5", &[("", false), ("b=5", false), ("a=five", false), ("a= 5", false)]);
    check("a <> 5", &[("a=5", false), ("a=6", true), ("a=six", false), ("", false)]);
    check("a = '5'", &[("a=5", true), ("a=05", false)]);
    check("a > 5", &[("a=6", true), ("a=5", false), ("a=-6", false), ("a=6.5", false), ("", false)]);
    check("a >= 5 and a<=7", &[("a=5", true), ("a=7", true), ("a=8", false), ("a=4", false)]);
    check("5 < a", &[("a=6", true), ("a=5", false)]);
    check("a < -5", &[("a=-6", true), ("a=-5", false)]);
    check("a > +-5", &[("a=-4", true), ("a=-5", false)]);
    check("a > 3000000000", &[("a=3000000001", true), ("a=5", false)]);
    check("a > 5", &[("a=3000000000", true), ("a=9223372036854775808", false)]);
    check("a = 9223372036854775807L", &[("a=9223372036854775807", true)]);
    check("a > 3.1E10", &[("a=3.1415926E10", true), ("a=31000000001", true), ("a=3", false)]);
    check(
        "a > 0.5",
        &[("a=.6", true), ("a=1", true), ("a= 7d ", true), ("a=0x1p3", false), ("a=inf", false)],
    );
    check("a < 5.", &[("a=4.99", true), ("a=NaN", false), ("a=-Infinity", true)]);
    check("a > 5.", &[("a=NaN", true), ("a=Infinity", true), ("a=infinity", false)]);
    check("a = 5e0", &[("a=5", true), ("a=5.0", true)]);
    // Two properties have an order if both are numbers.
    check("a > b", &[("a=10,b=9", true), ("a=9,b=10", false), ("a=x,b=9", false), ("a=1", false)]);
    check("a = b", &[("a=x,b=x", true), ("a=x,b=y", false), ("a=x", false), ("b=x", false), ("", true)]);
    check("a <> b", &[("a=x,b=x", false), ("a=x,b=y", true), ("a=x", true), ("b=x", false), ("", false)]);
    check("'x' = a", &[("a=x", true), ("a=y", false), ("", false)]);
    check("5 = 5.0", &[("", true)]);
    check("5 = TRUE", &[("", false)]);
}

#[test]
fn nulls_and_logic() {
    check("a is null", &[("", true), ("a=1", false)]);
    check("a IS NOT NULL", &[("", false), ("a=1", true)]);
    check("a is null OR a = 'hello'", &[("", true), ("a=hello", true), ("a=hallo", false)]);
    check("not (a = 'x')", &[("a=y", true), ("a=x", false), ("", false)]);
    check(
        "not (a > 5 and b > 5)",
        &[("a=1", true), ("b=1", true), ("a=9", false), ("", false), ("a=9,b=1", true)],
    );
    check("a > 5 or b > 5", &[("a=9", true), ("b=9", true), ("a=1", false), ("a=1,b=1", false)]);
    check("(a > 5 or b > 5) is null", &[("a=1", true), ("", true), ("a=9", false), ("a=1,b=1", false)]);
    check("a = 'x' or b = 'y' and c = 'z'", &[("a=x", true), ("b=y", false), ("b=y,c=z", true)]);
    check("(a = 'x' or b = 'y') and c = 'z'", &[("a=x", false), ("a=x,c=z", true)]);
    check("TRUE", &[("", true)]);
    check("FALSE or NULL", &[("", false)]);
    check("NULL", &[("", false)]);
    check("NOT NULL", &[("", false)]);
    check(
        "a = TRUE OR b = FALSE",
        &[("a=true", true), ("a=TRUE", true), ("b=no", true), ("a=1,b=true", false)],
    );
    check("TRUE = a", &[("a=true", true), ("a=yes", false)]);
    // A property is no condition: set is false, unset is NULL.
    check("a", &[("a=true", false), ("", false)]);
    check("NOT a", &[("a=true", true), ("", false)]);
    // NOT binds to what follows it, which here is `a` alone.
    check("not a = TRUE", &[("a=x", true), ("", false)]);
    // What cannot be compared does not match, whatever else is true.
    check("a > 5 or b = 'x'", &[("a=z,b=x", false), ("a=9,b=x", true), ("b=x", true)]);
    check("b = 'x' or a > 5", &[("a=z,b=x", true)]);
    check("not (a > 5)", &[("a=z", false)]);
    check("-a is null", &[("a=5", true)]);
    check("-(a is null) is null", &[("", true)]);
}

#[test]
fn words() {
    check(
        "a between 2 and 10",
        &[("a=2", true), ("a=10", true), ("a=11", false), ("a=1", false), ("", false)],
    );
    check(
        "a BETWEEN low AND 9.5",
        &[("a=5,low=5", true), ("a=5,low=6", false), ("a=5", false), ("a=10,low=1", false)],
    );
    check("a not between 2 and 10", &[("a=1", true), ("a=11", true), ("a=5", false), ("", false)]);
    check("not (a not between 2 and b)", &[("a=5,b=9", true), ("a=5", false), ("a=1,b=9", false)]);
    check("a not between 9 and 2", &[("a=5", true)]);
    check("7 between a and b", &[("a=1,b=9", true), ("a=8,b=9", false)]);
    check("a in ('3', '4', '5', '6', '7')", &[("a=3", true), ("a=7", true), ("a=8", false), ("", false)]);
    check("a not in ('3', '4', '4')", &[("a=3", false), ("a=8", true), ("", false)]);
    check("not (a in ('3'))", &[("a=3", false), ("a=8", true), ("", false)]);
    check("a contains 'x'", &[("a=axb", true), ("a=ab", false), ("", false)]);
    check("a not contains 'x'", &[("a=axb", false), ("a=ab", true), ("", false)]);
    check("a startswith 'ax' and a endswith 'xb'", &[("a=axb", true), ("a=xb", false)]);
    check(
        "a not startswith 'x' and a not endswith 'y'",
        &[("a=abc", true), ("a=xa", false), ("a=ay", false)],
    );
    check("a contains '' or a not contains ''", &[("a=x", false)]);
    check("'axb' contains 'x'", &[("", true)]);
    check("5 contains '5' or (a = 'x') contains 't'", &[("a=x", false)]);
    check("a In ('x') AnD b Is NoT nUlL", &[("a=x,b=y", true)]);
    check("TAGS is not null and TAGS='''''tag'''''", &[("TAGS=''tag''", true), ("TAGS=tag", false)]);
    check("$a_1 = 'é ü' and _ = '语'", &[("$a_1=é ü,_=语", true)]);
}

#[test]
fn space_and_comments() {
    for text in [
        "a=1",
        " a\t=\n1\r\u{c}",
        "a = 1 -- and nothing else",
        "-- first\na = 1",
        "a /* b = */ = /***/ 1 /* * / */",
        "a=1--\r\n",
        "(((a = 1)))",
    ] {
        check(text, &[("a=1", true), ("a=2", false)]);
    }
    check("a = '-- /* no comment */'", &[("a=-- /* no comment */", true)]);
}

#[test]
fn what_is_no_expression() {
    let deep = format!("{}a = 1{}", "(".repeat(80), ")".repeat(80));
    let nots = format!("{}(a = 1)", "NOT ".repeat(80));
    let minus = format!("a > {}1", "- ".repeat(80));
    let chain = format!("a{}", " = b".repeat(80));
    let long = format!("a = '{}'", "x".repeat(9000));
    let names = (0..65).map(|n| format!("p{n} = 1")).collect::<Vec<_>>().join(" and ");
    for (text, position, what) in [
        ("", 0, "the expression ends where a value"),
        ("   ", 3, "the expression ends"),
        ("a =", 3, "the expression ends"),
        ("a = 1 b", 6, "b was found where the end"),
        ("a = 1 and", 9, "the expression ends"),
        ("a != 1", 2, "'!' has no meaning"),
        ("a == 1", 3, "= was found where a value"),
        ("ä = 1", 0, "'ä' has no meaning"),
        ("b = 'ä' and ä = 1", 12, "'ä' has no meaning"),
        ("a = 'x", 4, "this string does not end"),
        ("a = 1 /* x", 6, "this comment does not end"),
        ("(a = 1", 6, "the expression ends where )"),
        ("a = 1)", 5, ") was found"),
        ("5", 0, "not a condition"),
        ("'x'", 0, "not a condition"),
        ("-a", 0, "not a condition"),
        ("a = 1 or 5", 9, "not a condition"),
        ("NOT 5", 4, "not a condition"),
        ("a = NULL", 4, "IS NULL"),
        ("NULL <> a", 0, "IS NULL"),
        ("TRUE = 5", 7, "boolean"),
        ("a > 'x'", 4, "order"),
        ("a > TRUE", 4, "order"),
        ("(a = 1) > 2", 0, "order"),
        ("1 < a < 5", 0, "order"),
        ("NOT a > 5", 0, "order"),
        ("a between 'a' and 'b'", 10, "order"),
        ("a between 9 and 2", 10, "the lower value first"),
        ("a between 2 or 9", 12, "or was found where AND"),
        ("a in ()", 6, ") was found where a string"),
        ("a in (5)", 6, "5 was found where a string"),
        ("a in ('5'", 9, "the expression ends where a comma"),
        ("5 in ('5')", 0, "IN wants a property"),
        ("a contains x", 11, "x was found where a string"),
        ("a not 5", 6, "5 was found where BETWEEN"),
        ("a is 5", 5, "5 was found where NULL"),
        ("a = 9223372036854775808", 4, "64 bits"),
        ("a = 1e999", 4, "too large"),
        ("a = 007", 5, "0 was found where the end"),
        ("a = 5x", 5, "x was found where the end"),
        ("a like 'x%'", 2, "like was found"),
        ("a + 1 = 2", 2, "+ was found"),
        (&deep, 64, "nested more than 64"),
        (&nots, 256, "nested more than 64"),
        (&minus, 132, "nested more than 64"),
        (&chain, 0, "nested more than 64"),
        (&long, 0, "more than 8192"),
        (&names, 758, "more than 64 properties"),
    ] {
        let error = Filter::compile(text).expect_err(text);
        assert_eq!(error.position, position, "{text}: {error}");
        assert!(error.what.contains(what), "{text}: {error}");
    }
    assert_eq!(
        Filter::compile("a =").unwrap_err().to_string(),
        "the expression ends where a value was expected at position 3"
    );
}

#[test]
fn much_that_is_not_deep() {
    let many = (0..600).map(|n| format!("a = '{n}'")).collect::<Vec<_>>();
    check(&many.join(" or "), &[("a=599", true), ("a=600", false)]);
    let list = (0..900).map(|n| format!("'{n}'")).collect::<Vec<_>>().join(",");
    check(&format!("a in ({list})"), &[("a=899", true), ("a=900", false)]);
    let names = (0..64).map(|n| format!("p{n} = 1")).collect::<Vec<_>>();
    check(&names.join(" or "), &[("p0=1", true), ("p63=1", true), ("p64=1", false)]);
    check(&format!("{}a = 1{}", "(".repeat(60), ")".repeat(60)), &[("a=1", true)]);
}

#[test]
fn the_last_of_two_values_counts() {
    assert!(compile("a = 'y'").matches("a\u{1}x\u{2}a\u{1}y\u{2}"));
    assert!(!compile("a = 'x'").matches("a\u{1}x\u{2}a\u{1}y"));
    assert!(compile("a is null").matches("a\u{1}\u{2}\u{1}x\u{2}a"));
}

/// Texts that are expressions more often than not.
fn expressions() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("a = 1".to_owned()),
        Just("b > c".to_owned()),
        Just("c IS NULL".to_owned()),
        Just("d IN ('1', 'x')".to_owned()),
        Just("a BETWEEN -1 AND 2.5".to_owned()),
        Just("b NOT CONTAINS 'x'".to_owned()),
        Just("TRUE".to_owned()),
        Just("NULL".to_owned()),
        Just("a".to_owned()),
    ];
    leaf.prop_recursive(6, 40, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) AND ({b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) OR ({b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("NOT ({a}) = (NOT ({b}))")),
            inner.prop_map(|a| format!("NOT ({a})")),
        ]
    })
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,60}", properties in "\\PC{0,30}") {
        if let Ok(filter) = Filter::compile(&text) {
            filter.matches(&properties);
        }
    }

    #[test]
    fn no_words_panic(
        words in proptest::collection::vec(
            prop_oneof![
                Just("a"), Just("b"), Just("1"), Just("2.5"), Just("'x'"), Just("("), Just(")"), Just("AND"), Just("OR"),
                Just("NOT"), Just("IN"), Just("BETWEEN"), Just("IS"), Just("NULL"), Just("TRUE"), Just("="), Just("<>"),
                Just("<"), Just(">="), Just("-"), Just("+"), Just(","), Just("CONTAINS"), Just("'"), Just("/*"),
            ],
            0..24,
        ),
        a in "[0-9.x]{0,4}",
    ) {
        let text = words.join(" ");
        if let Ok(filter) = Filter::compile(&text) {
            filter.matches(&wire::properties_from([("a", a.as_str()), ("b", "2")]));
        }
    }

    #[test]
    fn nothing_is_both_true_and_false(text in expressions(), a in "[0-9x]{0,2}", b in "[0-9]{0,2}") {
        let properties = wire::properties_from([("a", a.as_str()), ("b", b.as_str())]);
        let (filter, not) = (compile(&text), compile(&format!("NOT ({text})")));
        let neither = compile(&format!("({text}) IS NULL"));
        let ways = [&filter, &not, &neither].into_iter().filter(|filter| filter.matches(&properties)).count();
        // None of them: the expression cannot be evaluated. A bare property that is asked for NULL is not a condition.
        prop_assert!(ways <= 1 || text == "a", "{text} of {a} {b}");
    }
}
