//! The pages about the desk: from the binary alone, under a strict policy, packed for whoever takes them packed.

use std::{env, fs, io::Read as _, io::Write as _, path::Path};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use poem_openapi::OpenApiService;
use reqwest::{Method, Response};

use crate::desk::{Desk, header};

const PAGES: [&str; 10] = [
    "/docs",
    "/docs/start.css",
    "/docs/start.js",
    "/docs/swagger-ui.css",
    "/docs/swagger-ui.js",
    "/openapi.json",
    "/openapi.yaml",
    "/redoc",
    "/redoc/redoc.js",
    "/redoc/start.js",
];

fn unpack(packed: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    GzDecoder::new(packed).read_to_end(&mut plain).unwrap();
    plain
}

/// What `text` has between two marks.
fn between<'t>(text: &'t str, start: &str, end: &str) -> &'t str {
    text.split_once(start).unwrap().1.split_once(end).unwrap().0
}

/// Compares the packed files with what poem-openapi brings; `UPDATE_DOCS=1 cargo test packed` packs them again.
#[test]
fn the_packed_files_are_those_of_the_library() {
    let service = OpenApiService::new((), "", "");
    let (swagger, redoc) = (service.swagger_ui_html(), service.redoc_html());
    let files = [
        ("swagger-ui.css.gz", between(&swagger, "<style charset=\"UTF-8\">", "</style>")),
        ("swagger-ui.js.gz", between(&swagger, "<script charset=\"UTF-8\">", "</script>\n</head>")),
        ("redoc.js.gz", between(&redoc, "<script charset=\"UTF-8\">", "</script>\n  </head>")),
    ];
    for (name, original) in files {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http/docs").join(name);
        if env::var_os("UPDATE_DOCS").is_some() {
            let mut packed = GzEncoder::new(Vec::new(), Compression::best());
            packed.write_all(original.as_bytes()).unwrap();
            fs::write(&path, packed.finish().unwrap()).unwrap();
        }
        let same = unpack(&fs::read(&path).unwrap()) == original.as_bytes();
        assert!(same, "src/http/docs/{name} is not the library's; UPDATE_DOCS=1 cargo test packed");
    }
}

#[tokio::test]
async fn the_pages_come_from_the_binary_with_a_strict_policy() {
    let desk = Desk::open().await;
    for (page, inline_style) in [("/docs", false), ("/redoc", true)] {
        let response = desk.get(page).send().await.unwrap();
        assert_eq!(response.status(), 200);
        let policy = header(&response, "content-security-policy").to_owned();
        assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'self';"), "{policy}");
        assert_eq!(policy.contains("unsafe-inline"), inline_style);
        let html = response.text().await.unwrap();
        assert!(!html.contains("://"), "nothing from another host");
        for asset in html.split('"').filter(|text| text.starts_with('/')) {
            let response = desk.get(asset).send().await.unwrap();
            assert_eq!(response.status(), 200, "{asset}");
            let text = response.text().await.unwrap();
            assert!(!text.trim_start().starts_with('<'), "{asset} is not a page");
        }
    }
}

async fn ask(desk: &Desk, method: Method, page: &str, accept: Option<&str>, known: &str) -> Response {
    let request = desk.http.request(method, format!("{}{page}", desk.url)).header("if-none-match", known);
    let request = if let Some(accept) = accept { request.header("accept-encoding", accept) } else { request };
    request.send().await.unwrap()
}

#[tokio::test]
async fn every_page_is_one_text_packed_and_plain() {
    let desk = Desk::open().await;
    for page in PAGES {
        let packed = ask(&desk, Method::GET, page, Some("gzip, br"), "").await;
        let plain = ask(&desk, Method::GET, page, None, "").await;
        assert!(packed.status() == 200 && plain.status() == 200, "{page}");
        for (response, coding) in [(&packed, "gzip"), (&plain, "")] {
            assert_eq!(header(response, "content-encoding"), coding, "{page}");
            assert_eq!(header(response, "vary"), "Accept-Encoding", "{page}");
        }
        assert_eq!(header(&packed, "content-type"), header(&plain, "content-type"), "{page}");
        let (packed, plain) = (packed.bytes().await.unwrap(), plain.bytes().await.unwrap());
        assert!(unpack(&packed) == plain, "{page}");
        assert!(plain.len() < 1000 || packed.len() * 2 < plain.len(), "{page} is smaller when packed");
    }
}

#[tokio::test]
async fn head_says_what_get_would() {
    let desk = Desk::open().await;
    for (page, accept) in PAGES.iter().flat_map(|page| [(page, Some("gzip")), (page, None)]) {
        let get = ask(&desk, Method::GET, page, accept, "").await;
        let head = ask(&desk, Method::HEAD, page, accept, "").await;
        assert_eq!(head.status(), 200, "{page}");
        for name in
            ["content-type", "content-length", "content-encoding", "content-security-policy", "etag", "vary"]
        {
            assert_eq!(header(&head, name), header(&get, name), "{page} {name}");
        }
        assert_eq!(header(&head, "content-length"), get.bytes().await.unwrap().len().to_string(), "{page}");
        assert!(head.bytes().await.unwrap().is_empty());
    }
}

/// RFC 9110 §8.8.3: one entity tag each, because the bytes differ. §13.1.2: the comparison is weak.
#[tokio::test]
async fn a_page_that_the_client_has_is_not_sent_again() {
    let desk = Desk::open().await;
    for page in PAGES {
        let mut tags = Vec::new();
        for accept in [Some("gzip"), None] {
            let etag = header(&ask(&desk, Method::GET, page, accept, "").await, "etag").to_owned();
            for known in [etag.clone(), format!("W/{etag}"), format!("\"other\", {etag}"), "*".to_owned()] {
                let again = ask(&desk, Method::GET, page, accept, &known).await;
                assert_eq!(again.status(), 304, "{page} {known}");
                assert_eq!((header(&again, "etag"), header(&again, "vary")), (&*etag, "Accept-Encoding"));
                assert_eq!(header(&again, "content-encoding"), "");
                assert!(again.bytes().await.unwrap().is_empty());
            }
            tags.push(etag);
        }
        assert_ne!(tags[0], tags[1], "{page}");
        assert_eq!(
            ask(&desk, Method::GET, page, None, &tags[0]).await.status(),
            200,
            "{page}: not in this coding"
        );
    }
}

/// RFC 9110 §12.5.3.
#[tokio::test]
async fn the_client_chooses_the_coding() {
    let desk = Desk::open().await;
    let cases = [
        ("gzip", true),
        ("x-gzip", true),
        ("GZIP;Q=0.5", true),
        ("br;q=1, gzip ; q=0.001", true),
        ("gzip, deflate, br, zstd", true),
        ("*", true),
        ("*;q=0.1, identity", false),
        ("identity;q=0.5, gzip;q=0.5", true),
        ("identity, gzip;q=0.9", false),
        ("identity;q=0, *", true),
        ("gzip;q=0", false),
        ("gzip;q=0.000, *", false),
        ("*;q=0", false),
        ("gzip;q=much", false),
        ("gzip;level=9", false),
        ("br, zstd", false),
        ("identity", false),
        ("", false),
        (",;,q=", false),
    ];
    for (accept, packed) in cases {
        let response = ask(&desk, Method::GET, "/docs/start.js", Some(accept), "").await;
        assert_eq!(response.status(), 200, "{accept:?}");
        assert_eq!(header(&response, "content-encoding") == "gzip", packed, "{accept:?}");
    }
}

/// What carries keys, tokens or what the client sent is never packed: its length would tell of its content (BREACH).
#[tokio::test]
async fn nothing_else_is_packed() {
    let desk = Desk::open().await;
    let key = format!("sk-{}", "a1B2c3".repeat(500));
    desk.set_key("default", "openai", &key).await;
    let token = desk.login("admin").await;
    for path in ["/health", "/llm-keys", "/llm-keys/openai", "/me", "/.well-known/jwks.json", "/nowhere"] {
        let request = desk.get(path).bearer_auth(&token).header("accept-encoding", "gzip");
        let response = request.send().await.unwrap();
        assert_eq!(header(&response, "content-encoding"), "", "{path}");
        let whole = response.text().await.unwrap().contains(&key);
        assert_eq!(whole, path.starts_with("/llm-keys"), "{path}");
    }
}
