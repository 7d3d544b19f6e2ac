#!/bin/sh
# examples/html/fits.sh BROWSER WORK PAGE... - opens pages in headless Chromium from 1024 to 1920 pixels and fails if anything is cut off there.
# SPDX-License-Identifier: MIT
#
# Cut off is: a page or a table wider than its place, and text of a plot outside of it. Screenshots, light and dark, are left in WORK.
set -eu
browser=$1 work=$2
shift 2
mkdir -p "$work"
options="--headless --no-sandbox --disable-gpu --hide-scrollbars --allow-file-access-from-files --user-data-dir=$work/profile"
result=0
for page in "$@"; do
  name=$(basename "$page" .html)
  cat > "$work/measure.html" <<EOF
<!DOCTYPE html><body><script>
const widths = [1024, 1280, 1440, 1920];
let left = widths.length;
for (const width of widths) {
  const frame = document.createElement('iframe');
  frame.style.width = width + 'px'; frame.style.height = '900px'; frame.style.border = '0';
  frame.onload = () => {
    const doc = frame.contentDocument;
    const wrong = [];
    if (doc.documentElement.scrollWidth > width) wrong.push('the page is ' + doc.documentElement.scrollWidth + ' wide');
    for (const box of doc.querySelectorAll('.wide'))
      if (box.scrollWidth > box.clientWidth) wrong.push('a table is ' + box.scrollWidth + ' wide in ' + box.clientWidth);
    for (const svg of doc.querySelectorAll('svg.plot')) {
      const room = svg.getBoundingClientRect();
      for (const text of svg.querySelectorAll('text')) {
        const place = text.getBoundingClientRect();
        if (place.left < room.left - 1 || place.right > room.right + 1 || place.top < room.top - 1 || place.bottom > room.bottom + 1)
          wrong.push('a plot cuts off "' + text.textContent + '"');
      }
    }
    const line = document.createElement('p');
    line.textContent = '[' + width + ': ' + doc.querySelectorAll('td').length + ' cells, ' + (wrong.join('; ') || 'all is there') + ']';
    document.body.append(line);
  };
  frame.src = 'file://$page';
  document.body.append(frame);
}
</script></body>
EOF
  # shellcheck disable=SC2086
  "$browser" $options --virtual-time-budget=10000 --dump-dom "file://$work/measure.html" 2> "$work/browser.log" |
    grep -o '<p>\[[^]]*\]' | sed 's/<p>//' > "$work/$name.txt"
  cat "$work/$name.txt"
  [ "$(grep -c 'cells, all is there' "$work/$name.txt")" -eq 4 ] && ! grep -q ': 0 cells' "$work/$name.txt" || result=1
  for scheme in 0 1; do  # dark, light
    # shellcheck disable=SC2086
    "$browser" $options --blink-settings=preferredColorScheme=$scheme --window-size=1280,2400 --screenshot="$work/$name-$scheme.png" \
      "file://$page" > /dev/null 2>&1
    [ -s "$work/$name-$scheme.png" ] || { echo "no screenshot of $page"; result=1; }
  done
done
exit $result
