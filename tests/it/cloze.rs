//! Questions made by code, on sentences of real articles.

use nightschool::proposer::cloze;
use nightschool::task::AnswerKind;
use nightschool::task::Passage;

fn ask(title: &str, text: &str, answer: &str, kind: AnswerKind) -> Option<String> {
    let passage = Passage {
        id: "p".into(),
        document_id: "d".into(),
        title: title.into(),
        text: text.into(),
        ordinal: 0,
    };
    cloze::question(&passage, answer, kind)
}

#[test]
fn questions_read_like_questions() {
    let cases = [
        (
            "Ross Sea",
            "The Ross Sea was discovered by the Ross expedition in 1841.",
            "1841",
            AnswerKind::Date,
        ),
        (
            "Yokohama",
            "Yokohama is the second-largest city in Japan by population as well as by area.",
            "Yokohama",
            AnswerKind::Title,
        ),
        (
            "A Doll's House",
            "It premiered at the Royal Danish Theatre in Copenhagen on 21 December 1879.",
            "21 December 1879",
            AnswerKind::Date,
        ),
        (
            "Sun",
            "The Sun's core converts about four million tonnes of matter into energy every second.",
            "four million tonnes",
            AnswerKind::Number,
        ),
        (
            "Frankenstein",
            "The novel Frankenstein was written by Mary Shelley during a stay near Lake Geneva.",
            "Mary Shelley",
            AnswerKind::Name,
        ),
    ];
    let expected = [
        "In what year was the Ross Sea discovered by the Ross expedition?",
        "What is the second-largest city in Japan by population as well as by area?",
        "A Doll's House premiered at the Royal Danish Theatre in Copenhagen on what date?",
        "The Sun's core converts about how many tonnes of matter into energy every second?",
        "By whom was the novel Frankenstein written during a stay near Lake Geneva?",
    ];
    for ((title, text, answer, kind), expected) in cases.iter().zip(expected) {
        assert_eq!(ask(title, text, answer, *kind).as_deref(), Some(expected));
    }
}

#[test]
fn parts_of_names_are_not_asked_for() {
    let text = "Antonie Philips van Leeuwenhoek was a Dutch microbiologist and microscopist.";
    assert_eq!(ask("Microscope", text, "Leeuwenhoek", AnswerKind::Name), None);
    let text = "She worked as a painter in the court of Charles I of England for four years.";
    assert_eq!(ask("Artemisia Gentileschi", text, "Charles", AnswerKind::Name), None);
}

#[test]
fn a_question_word_moves_only_where_the_rest_stays_whole() {
    let cases = [
        (
            "Newt",
            "A newt is a salamander in the subfamily Pleurodelinae.",
            "Pleurodelinae",
            AnswerKind::Name,
            "A newt is a salamander in the subfamily what?",
        ),
        (
            "Solomon Islands",
            "The Solomon Islands are a country of six major islands in Oceania.",
            "six",
            AnswerKind::Number,
            "The Solomon Islands are a country of how many major islands in Oceania?",
        ),
        (
            "Operation Condor",
            "Condor was formally created in November 1975.",
            "November 1975",
            AnswerKind::Date,
            "In what month was Condor formally created?",
        ),
        (
            "Ptolemy XII",
            "He died in 51 BC.",
            "51 BC",
            AnswerKind::Date,
            "Ptolemy XII died in what year?",
        ),
    ];
    for (title, text, answer, kind, expected) in cases {
        assert_eq!(ask(title, text, answer, kind).as_deref(), Some(expected));
    }
}

#[test]
fn questions_no_person_would_ask_are_not_made() {
    let text = "The army, which had crossed the river in the night after a long march through \
                the hills, met the enemy at the bridge and drove them back to the walls of the \
                town in 1417.";
    assert_eq!(ask("Siege", text, "1417", AnswerKind::Date), None);
}
