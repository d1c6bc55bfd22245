//! The user's mistakes, each with its place, shown the way compilers do.
//!
//! A run collects every mistake it can find; [`Diagnostics::render`] sorts them
//! by file and place. What the world does wrong is no diagnostic but an
//! [`anyhow::Error`].

use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

/// Where something was written: bytes of one of the [`Diagnostics`]' files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    file: usize,
    start: usize,
    end: usize,
}

impl Place {
    /// A span of the file that [`Diagnostics::add_file`] gave this number.
    pub fn new(file: usize, span: Range<usize>) -> Place {
        Place { file, start: span.start, end: span.end }
    }
}

/// A value and where it was written.
#[derive(Clone, Debug)]
pub struct Spanned<T> {
    /// As written.
    pub value: T,
    /// Where.
    pub place: Place,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Nothing can be built.
    Error,
    /// Built nevertheless.
    Warning,
}

/// What a diagnostic points at; the order is the order of the output.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    /// A span of a text file.
    Span(Place),
    /// A whole file or directory.
    Path(PathBuf),
}

/// One mistake.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    severity: Severity,
    message: String,
    target: Target,
    help: Option<String>,
}

impl Diagnostic {
    /// Adds what to do about it.
    pub fn help(&mut self, help: impl Into<String>) {
        self.help = Some(help.into());
    }

    /// Adds `did you mean …` when some candidate resembles what was written.
    pub fn suggest<'a>(&mut self, written: &str, candidates: impl IntoIterator<Item = &'a str>) {
        if let Some(close) = closest(written, candidates) {
            self.help(format!("did you mean `{close}`?"));
        }
    }
}

/// A text file that diagnostics point into.
#[derive(Clone, Debug)]
struct SourceFile {
    path: PathBuf,
    text: String,
}

/// The mistakes of one profile, with the texts they point into.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    files: Vec<SourceFile>,
    list: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Registers a text file; the number goes into [`Place::new`].
    pub fn add_file(&mut self, path: &Path, text: String) -> usize {
        self.files.push(SourceFile { path: path.to_path_buf(), text });
        self.files.len() - 1
    }

    /// Takes over the texts of others, whose places keep their meaning; there must be none yet.
    pub(crate) fn take_files(&mut self, others: Diagnostics) {
        debug_assert!(self.files.is_empty(), "places would point elsewhere");
        self.files = others.files;
    }

    /// What is written at a place.
    pub(crate) fn text(&self, place: &Place) -> Option<&str> {
        self.files.get(place.file)?.text.get(place.start..place.end)
    }

    /// Adds an error about a span.
    pub fn error(&mut self, place: &Place, message: impl Into<String>) -> &mut Diagnostic {
        self.push(Severity::Error, Target::Span(place.clone()), message.into())
    }

    /// Adds a warning about a span.
    pub fn warning(&mut self, place: &Place, message: impl Into<String>) -> &mut Diagnostic {
        self.push(Severity::Warning, Target::Span(place.clone()), message.into())
    }

    /// Adds an error about a file or directory as a whole.
    pub fn path_error(&mut self, path: &Path, message: impl Into<String>) -> &mut Diagnostic {
        self.push(Severity::Error, Target::Path(path.to_path_buf()), message.into())
    }

    /// Adds a warning about a file or directory as a whole.
    pub fn path_warning(&mut self, path: &Path, message: impl Into<String>) -> &mut Diagnostic {
        self.push(Severity::Warning, Target::Path(path.to_path_buf()), message.into())
    }

    fn push(&mut self, severity: Severity, target: Target, message: String) -> &mut Diagnostic {
        self.list.push(Diagnostic { severity, message, target, help: None });
        self.list.last_mut().expect("one was just pushed")
    }

    /// Whether anything forbids a build.
    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|d| d.severity == Severity::Error)
    }

    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All messages in order of file and place, one empty line between them.
    /// Paths below `current_dir` are shown relative to it.
    pub fn render(&self, color: bool, current_dir: &Path) -> String {
        let mut sorted: Vec<&Diagnostic> = self.list.iter().collect();
        sorted.sort_by(|a, b| (&a.target, &a.message).cmp(&(&b.target, &b.message)));
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let renderer = renderer.decor_style(DecorStyle::Ascii);
        let texts: Vec<String> = sorted.iter().map(|d| self.render_one(&renderer, d, current_dir)).collect();
        texts.iter().map(|t| format!("{}\n", t.trim_end())).collect::<Vec<_>>().join("\n")
    }

    fn render_one(&self, renderer: &Renderer, diagnostic: &Diagnostic, current_dir: &Path) -> String {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(diagnostic.message.as_str());
        let group: Group = match &diagnostic.target {
            Target::Span(place) => {
                let file = &self.files[place.file];
                title.element(
                    Snippet::source(file.text.as_str())
                        .path(shown(&file.path, current_dir))
                        .annotation(AnnotationKind::Primary.span(one_line(&file.text, place))),
                )
            }
            Target::Path(path) => title.element(Origin::path(shown(path, current_dir))),
        };
        let help = diagnostic.help.as_ref().map(|help| Level::HELP.message(help.as_str()));
        renderer.render(&[group.elements(help)])
    }
}

/// The part of a span that lies on its first line: the rest of a long array says nothing.
fn one_line(text: &str, place: &Place) -> Range<usize> {
    let mut start = place.start.min(text.len());
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    let mut end = place.end.clamp(start, text.len());
    while !text.is_char_boundary(end) {
        end += 1;
    }
    let length = text[start..end].find('\n').unwrap_or(end - start);
    start..start + length
}

/// A path as the user would type it from where they are.
fn shown(path: &Path, current_dir: &Path) -> String {
    let relative = path.strip_prefix(current_dir).unwrap_or(path);
    crate::tree::display_path(relative.as_os_str().as_encoded_bytes())
}

/// The candidate that most resembles a misspelt word, or none that is near:
/// at most one edit in three characters.
pub fn closest<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (written.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(written, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Words in backquotes as a list: `a`, `b` or `c`.
pub fn alternatives(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|w| format!("`{w}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        Some((only, _)) => only.clone(),
        None => "nothing".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_in_order_of_place() {
        let mut diagnostics = Diagnostics::default();
        let text = "a = 1\nb = [\n  2,\n]\n";
        let file = diagnostics.add_file(Path::new("/home/u/p/profile.toml"), text.to_string());
        diagnostics.path_error(Path::new("p/airootfs/dev"), "a device");
        diagnostics.warning(&Place::new(file, 10..18), "second").help("do this");
        diagnostics.error(&Place::new(file, 0..1), "first");
        assert_eq!(
            diagnostics.render(false, Path::new("/home/u")),
            "\
error: first
 --> p/profile.toml:1:1
  |
1 | a = 1
  | ^

warning: second
 --> p/profile.toml:2:5
  |
2 | b = [
  |     ^
  |
  = help: do this

error: a device
--> p/airootfs/dev
"
        );
    }

    #[test]
    fn a_suggestion_is_near() {
        let known = ["gzip", "xz", "zstd", "lz4"];
        for (written, expected) in
            [("gizp", Some("gzip")), ("xy", Some("xz")), ("brotli", None), ("zst", Some("zstd"))]
        {
            assert_eq!(closest(written, known), expected, "{written}");
        }
    }

    #[test]
    fn spans_outside_the_text_are_clipped() {
        let mut diagnostics = Diagnostics::default();
        let file = diagnostics.add_file(Path::new("x"), "ü".to_string());
        diagnostics.error(&Place::new(file, 1..900), "no panic");
        assert_eq!(
            diagnostics.render(false, Path::new("/")),
            "error: no panic\n --> x:1:1\n  |\n1 | ü\n  | ^\n"
        );
    }
}
