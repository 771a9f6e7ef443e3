// Everything is on the page without it; it adds choosing, sorting and a large view.
(function () {
  var list = document.querySelector('.frames');
  var controls = document.querySelector('.frames-section .controls');
  if (list && controls) {
    var frames = Array.from(list.children);
    var buttons = Array.from(controls.querySelectorAll('button'));
    var order = controls.querySelector('select');
    var group = '';
    var update = function () {
      var column = order.value.split(' ')[0], sign = order.value.split(' ')[1] === 'up' ? 1 : -1;
      frames.slice().sort(function (a, b) {
        if (column === 'name') return a.dataset.name < b.dataset.name ? -1 : 1;
        var x = parseFloat(a.dataset.values.split(' ')[column]);
        var y = parseFloat(b.dataset.values.split(' ')[column]);
        if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y);
        return sign * (x - y);
      }).forEach(function (frame) {
        frame.hidden = Boolean(group) && frame.dataset.group !== group;
        list.appendChild(frame);
      });
      buttons.forEach(function (button) {
        button.setAttribute('aria-pressed', button.dataset.group === group);
      });
      document.querySelector('.shown').textContent =
        (group ? ' of ' + group : '') + ', ' + order.selectedOptions[0].textContent;
    };
    controls.hidden = false;
    order.onchange = update;
    buttons.forEach(function (button) {
      button.onclick = function () { group = button.dataset.group; update(); };
    });
  }

  // Tables that are sorted by a click on a column's name
  document.querySelectorAll('table.sortable').forEach(function (table) {
    var heads = Array.from(table.querySelectorAll('thead th'));
    heads.forEach(function (head, column) {
      var button = document.createElement('button');
      button.append.apply(button, Array.from(head.childNodes));
      head.append(button);
      button.onclick = function () {
        var down = head.getAttribute('aria-sort') !== 'descending', sign = down ? -1 : 1;
        heads.forEach(function (other) { other.removeAttribute('aria-sort'); });
        head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
        Array.from(table.tBodies[0].rows).sort(function (a, b) {
          var x = a.cells[column].textContent, y = b.cells[column].textContent;
          var p = parseFloat(x), q = parseFloat(y);
          if (isNaN(p) && isNaN(q)) return sign * x.localeCompare(y);
          if (isNaN(p) || isNaN(q)) return isNaN(p) - isNaN(q);
          return sign * (p - q) || sign * x.localeCompare(y);
        }).forEach(function (row) { table.tBodies[0].appendChild(row); });
      };
    });
  });

  var box = document.createElement('dialog'), current;
  if (!box.showModal) return;
  box.setAttribute('aria-label', 'picture, enlarged');
  box.innerHTML = '<div class="place"><img alt=""></div><div class="legends"></div>' +
    '<div class="controls"><span></span>' +
    '<button aria-label="previous picture">\u2190</button><button>full size</button>' +
    '<button>close</button><button aria-label="next picture">\u2192</button></div>';
  document.body.appendChild(box);
  var keys = box.querySelectorAll('button'), large = box.querySelector('img');
  function resize(full) {
    box.classList.toggle('full', full);
    keys[1].setAttribute('aria-pressed', full);
  }
  function show(link) {
    var picture = link.querySelector('img'), section = link.closest('section');
    var legend = section && section.querySelector('.legend');
    current = link;
    large.src = link.href;
    large.alt = picture.alt;
    box.querySelector('span').textContent = picture.alt;
    box.querySelector('.legends').replaceChildren.apply(
      box.querySelector('.legends'), legend ? [legend.cloneNode(true)] : []);
    if (!box.open) { resize(false); box.showModal(); }
  }
  function step(by) {
    var links = Array.from(document.querySelectorAll('a.zoom')).filter(function (link) {
      return link.offsetParent;
    });
    show(links[(links.indexOf(current) + by + links.length) % links.length]);
  }
  document.addEventListener('click', function (event) {
    var link = event.target.closest('a.zoom');
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    show(link);
  });
  box.addEventListener('keydown', function (event) {
    if (event.key === 'ArrowLeft') step(-1);
    if (event.key === 'ArrowRight') step(1);
  });
  keys[0].onclick = function () { step(-1); };
  keys[1].onclick = large.onclick = function () { resize(!box.classList.contains('full')); };
  keys[2].onclick = function () { box.close(); };
  keys[3].onclick = function () { step(1); };
})();
