#!/bin/sh
# Makes target/book/html from docs/ with mdBook. Links that leave docs/ become links to the repository that Cargo.toml names.
set -eu
cd "$(dirname "$0")/.."
root=$PWD
book=$root/target/book
repository=$(sed -n 's/^repository = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
[ -n "$repository" ] || {
    echo "book: Cargo.toml names no repository" >&2
    exit 64
}
rm -rf "$book"
mkdir -p "$book/src"
cp docs/book.toml "$book/book.toml"
(cd docs && find . -type f ! -name book.toml) | while read -r file; do
    mkdir -p "$book/src/$(dirname "$file")"
    cp "docs/$file" "$book/src/$file"
done
# ../X of a page in docs/ and ../../X of one in a folder below it are the repository's.
find "$book/src" -maxdepth 1 -name '*.md' -exec sed -i "s|](\.\./\([^)]*\))|]($repository/blob/main/\1)|g" {} +
find "$book/src" -mindepth 2 -name '*.md' -exec sed -i "s|](\.\./\.\./\([^)]*\))|]($repository/blob/main/\1)|g" {} +
# A folder is no page of the site.
find "$book/src" -maxdepth 1 -name '*.md' -exec sed -i "s|](schemas)|]($repository/tree/main/docs/schemas)|g" {} +
find "$book/src" -mindepth 2 -name '*.md' -exec sed -i "s|](\.\./schemas)|]($repository/tree/main/docs/schemas)|g" {} +
mdbook build "$book"
echo "book: $book/html/index.html"
