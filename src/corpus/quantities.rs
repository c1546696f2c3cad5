//! Dates and numbers in a sentence.

use std::ops::Range;

use regex::Regex;

const MONTH: &str = "(?:January|February|March|April|May|June|July|August|September|October\
                     |November|December)";
const ERA: &str = r"(?:BCE|BC|CE|AD|B\.C\.E\.|B\.C\.|A\.D\.)";
const UNIT: &str = "(?:%|‰|°C|°F|°|per cent|percent|percentage points|km²|km2|km/h|km|m²|m/s|mph|m\
     |cm|mm|kg|g|mg|t|K|kW|MW|GW|W|Hz|kHz|MHz|GHz|eV|bytes?|bits?|kB|KB|MB|GB|TB|ha|mi|ft|lb|lbs|yd\
     |yards?|inch|inches|feet\
     |foot|miles?|metres?|meters?|kilometres?|kilometers?|square kilometres?|square kilometers?\
     |square miles?|centimetres?|centimeters?|hectares?|acres?|litres?|liters?|gallons?|tonnes?\
     |tons?|kilograms?|grams?|pounds?|degrees?|volts?|watts?|light-years?|years?|months?|weeks?\
     |days?|hours?|minutes?|seconds?|people|inhabitants|residents|members|speakers|species\
     |dollars?|euros?|times|students|states|countries|islands|languages|volumes|episodes|games\
     |goals|matches|points|medals|passengers|employees|soldiers|deaths|copies|genera|pages|words)";
const SPELLED: &str = "(?:three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen\
     |fourteen|fifteen|sixteen|seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty\
     |seventy|eighty|ninety)(?:-(?:one|two|three|four|five|six|seven|eight|nine))?";
/// A word bound, in ASCII like the digit classes below: with Unicode bounds the regex engine leaves
/// its fast path on every text with accents.
const EDGE: &str = r"(?-u:\b)";

/// The compiled patterns.
#[derive(Debug)]
pub(super) struct Patterns {
    dates: Option<Regex>,
    numbers: Option<Regex>,
    /// What follows a number that only looks like a year.
    not_a_year: Option<Regex>,
}

impl Patterns {
    pub(super) fn new() -> Self {
        let ordinal = "(?:st|nd|rd|th)";
        let year = "(?:1[0-9]{3}|20[0-9]{2})";
        let day = format!("[0-9]{{1,2}}{ordinal}?");
        let day_before = format!(r"(?:{day}\s+(?:of\s+)?)?");
        let day_after = format!(r"(?:\s+{day}{EDGE})?");
        let year_after = format!(r"(?:,?\s+(?:of\s+)?[0-9]{{3,4}}{EDGE})?(?:\s+{ERA})?");
        let dates = [
            // "21 July 1969", "July 21, 1969", "July 1969", "4th of July".
            format!("{EDGE}{day_before}{MONTH}{EDGE}{day_after}{year_after}"),
            // "19th century", "2nd millennium BC".
            format!(
                r"{EDGE}[0-9]{{1,2}}{ordinal}\s+(?:[Cc]entury|[Mm]illennium)(?:\s+{ERA}{EDGE})?"
            ),
            // "AD 79", "44 BC", "27–14 BC".
            format!(r"{EDGE}(?:AD|CE)\s+[0-9]{{1,4}}{EDGE}"),
            format!(r"{EDGE}[0-9]{{1,4}}(?:\s?[–-]\s?[0-9]{{1,4}})?\s+{ERA}"),
            // "1914–1918", "1914–18", "1914", "1910s".
            format!(r"{EDGE}{year}\s?[–-]\s?(?:{year}|[0-9]{{2}}){EDGE}"),
            format!("{EDGE}{year}s?{EDGE}"),
        ];
        let digits = r"[$€£¥]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?";
        let scale = r"(?:\s+(?:hundred|thousand|million|billion|trillion))";
        let unit = format!(r"(?:[\s-]{UNIT}{EDGE}|\s?[%‰°]C?)");
        let numbers = format!("(?:{digits}|{EDGE}{SPELLED}){scale}?{unit}?");
        let not_a_year = format!(r"^(?:[\s-]{UNIT}{EDGE}|\s?%|,[0-9]|\.[0-9]|{scale}{EDGE})");
        Self {
            dates: Regex::new(&dates.join("|")).ok(),
            numbers: Regex::new(&numbers).ok(),
            not_a_year: Regex::new(&not_a_year).ok(),
        }
    }

    /// Dates, years, decades, centuries and ranges of years, in order.
    pub(super) fn dates(&self, sentence: &str) -> Vec<Range<usize>> {
        self.dates
            .iter()
            .flat_map(|pattern| pattern.find_iter(sentence))
            .filter(|found| found.as_str().bytes().any(|byte| byte.is_ascii_digit()))
            .map(|found| found.range())
            .filter(|range| stands_alone(sentence, range))
            .filter(|range| {
                // "1500 metres" is a length, not a year.
                let rest = &sentence[range.end..];
                !self.not_a_year.as_ref().is_some_and(|pattern| pattern.is_match(rest))
            })
            .collect()
    }

    /// Numbers with scale and unit where there is one, in order; years are among them.
    pub(super) fn numbers(&self, sentence: &str) -> Vec<Range<usize>> {
        self.numbers
            .iter()
            .flat_map(|pattern| pattern.find_iter(sentence))
            .map(|found| found.range())
            .filter(|range| stands_alone(sentence, range))
            .collect()
    }
}

/// Whether the match is not a part of a longer number or word: "20" of "20th", "3" of "MP3".
fn stands_alone(sentence: &str, range: &Range<usize>) -> bool {
    let before = sentence[..range.start].chars().next_back();
    let mut rest = sentence[range.end..].chars();
    let after = rest.next();
    let then = rest.next();
    let glued = |c: Option<char>| {
        c.is_some_and(|c| {
            c.is_alphanumeric() || matches!(c, '-' | '–' | '_' | '/' | '$' | '€' | '£')
        })
    };
    let decimal =
        matches!(after, Some('.' | ',' | ':')) && then.is_some_and(|c| c.is_ascii_digit());
    let continued = matches!(before, Some('.' | ','))
        && sentence[..range.start].chars().rev().nth(1).is_some_and(|c| c.is_ascii_digit());
    !glued(before) && !glued(after) && !decimal && !continued
}
