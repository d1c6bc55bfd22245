//! The cells as the XML that continuous integration reads.

use super::Cell;

/// The cells as a JUnit XML document.
pub fn junit(image_name: &str, cells: &[Cell]) -> String {
    let failures = cells.iter().filter(|cell| cell.failed()).count();
    let skipped = cells.iter().filter(|cell| cell.skipped.is_some()).count();
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <testsuite name=\"{}\" tests=\"{}\" failures=\"{failures}\" skipped=\"{skipped}\">\n",
        xml_text(image_name),
        cells.len()
    );
    for cell in cells {
        let start =
            format!("  <testcase classname=\"boot\" name=\"{}\" time=\"{:.1}\"", cell.label(), cell.seconds);
        xml.push_str(&start);
        let seen = cell.report.as_ref().map_or(String::new(), |report| {
            format!("    <system-out>started by {}</system-out>\n", report.started_by())
        });
        if cell.passed {
            xml.push_str(&format!(">\n{seen}  </testcase>\n"));
        } else if cell.skipped.is_some() {
            let reason = xml_text(&cell.trouble());
            xml.push_str(&format!(">\n    <skipped message=\"{reason}\"/>\n  </testcase>\n"));
        } else {
            let lines = cell.failure.as_ref().map_or("", |failure| failure.last_lines.as_str());
            xml.push_str(&format!(
                ">\n    <failure message=\"{}\">{}</failure>\n{seen}  </testcase>\n",
                xml_text(&cell.trouble()),
                xml_text(lines)
            ));
        }
    }
    xml.push_str("</testsuite>\n");
    xml
}

/// Text for an XML attribute or element; what XML 1.0 cannot carry is replaced.
fn xml_text(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c if c < ' ' && !['\n', '\t'].contains(&c) => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::matrix::cell::tests::cells;

    #[test]
    fn the_junit_document() {
        let mut cells = cells();
        cells.remove(2);
        let expected = "\
<?xml version=\"1.0\" encoding=\"UTF-8\"?>
<testsuite name=\"a&amp;b.iso\" tests=\"3\" failures=\"1\" skipped=\"1\">
  <testcase classname=\"boot\" name=\"bios-cd-128M\" time=\"33.0\">
    <system-out>started by BIOS</system-out>
  </testcase>
  <testcase classname=\"boot\" name=\"uefi-ia32-usb-256M\" time=\"240.0\">
    <failure message=\"the boot loader ran, but no kernel: error: &lt;no&gt; &quot;file&quot; &amp; more (time-out after 240 s)\">GRUB
error: &lt;no&gt; &quot;file&quot; &amp; more</failure>
  </testcase>
  <testcase classname=\"boot\" name=\"bios-fat-copy-128M\" time=\"0.0\">
    <skipped message=\"the image is made for UEFI &lt;alone&gt;\"/>
  </testcase>
</testsuite>
";
        assert_eq!(junit("a&b.iso", &cells), expected);
    }
}
