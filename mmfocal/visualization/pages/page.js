document.getElementById('theme').addEventListener('click', () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  root.dataset.theme = dark ? 'light' : 'dark';
});

const value = cell => {
  const text = cell.textContent.trim().replace('−', '-');
  const number = parseFloat(text);
  return text === '' || text === '–' ? null : Number.isNaN(number) ? text.toLowerCase() : number;
};

for (const table of document.querySelectorAll('table.sortable')) {
  const heads = [...table.querySelectorAll('thead tr:last-child th')];
  const rows = [...table.tBodies[0].rows];
  heads.forEach((head, column) => {
    if (!head.textContent) return;
    head.dataset.sort = '';
    head.tabIndex = 0;
    const sort = () => {
      const was = head.getAttribute('aria-sort');
      heads.forEach(other => other.removeAttribute('aria-sort'));
      const sign = was === 'descending' ? 1 : -1;
      const text = head.classList.contains('text');
      const up = text ? was !== 'ascending' : sign > 0;
      head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
      const sorted = [...rows].sort((a, b) => {
        const [x, y] = [value(a.cells[column]), value(b.cells[column])];
        if (x === null || y === null) return (x === null) - (y === null);  // missing ones last, either way
        const order = typeof x === 'number' && typeof y === 'number' ? x - y : String(x).localeCompare(String(y));
        return up ? order : -order;
      });
      table.tBodies[0].append(...sorted);
    };
    head.addEventListener('click', sort);
    head.addEventListener('keydown', event => {
      if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); sort(); }
    });
  });
}
