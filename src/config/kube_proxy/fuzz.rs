//! Good files, spoilt: whatever stands in a file, it is taken or refused with a place. A failure prints its seed.

use proptest::prelude::*;

use super::effective;

const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

/// A good file, as lines: what mutations start from.
fn good() -> String {
    effective(Some(HEAD), &[]).unwrap().to_yaml().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_mutation_of_a_good_file_panics_and_refusals_name_a_place(
        at in any::<prop::sample::Index>(),
        with in prop_oneof![
            Just("[]"), Just("{}"), Just("{a: {b: [c]}}"), Just("null"), Just("true"), Just("-1"), Just("1e400"),
            Just("99999999999999999999999999"), Just("'text'"), Just("\"\\u0000\""), Just("*a"), Just("&a [*a]"),
            Just("!!binary AAAA"), Just("[[[[[[[[[[[[[[[["), Just("'"), Just("2001-01-01"), Just(".inf"), Just("0x1f"),
            Just("999999h"), Just("-9223372036854775808"), Just("18446744073709551616"), Just("\t"), Just("? a"),
        ],
        keep_key in any::<bool>(),
    ) {
        let text = good();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let line = at.get(&lines).clone();
        let position = lines.iter().position(|known| *known == line).unwrap();
        let key = line.split(':').next().unwrap_or_default();
        lines[position] = if keep_key { format!("{key}: {with}") } else { format!("{with}: {line}") };
        judge(&lines.join("\n"))?;
    }

    #[test]
    fn no_garbage_panics(cut in any::<prop::sample::Index>(), garbage in "\\PC{0,40}", repeated in 0usize..400) {
        let text = good();
        let cut = text.char_indices().nth(cut.index(text.chars().count())).map_or(0, |(at, _)| at);
        judge(&format!("{}{garbage}{}", &text[..cut], &text[cut..]))?;
        judge(&text[..cut])?;
        judge(&format!("{HEAD}mode: {}", "[".repeat(repeated)))?;
        judge(&format!("{HEAD}iptables: {}x{}", "{a: ".repeat(repeated), "}".repeat(repeated)))?;
        judge(&garbage)?;
    }
}

/// A text is taken, or refused with a field or a line.
fn judge(text: &str) -> Result<(), TestCaseError> {
    if let Err(error) = effective(Some(text), &[]) {
        prop_assert!(!error.field.is_empty() || error.line.is_some(), "{error} in {text}");
        prop_assert!(!error.message.is_empty());
    }
    Ok(())
}
