"""Keys: each is a click on the button in sight that carries it, so what a key does is always to be read."""

from nicegui import ui

#: What is said of an image hides it at once and shows the next, which is there already; the system is told beside it.
#: A key that is held down says nothing more, and keys in a field are letters.
_SCRIPT = """
(() => {
  if (window.usReview) return;
  window.usReview = true;
  const inSight = (element) => element.offsetParent !== null;
  document.addEventListener('click', (event) => {
    const button = event.target.closest('.us-one [data-key]');
    const card = button && button.closest('.us-one');
    if (!card || button.tagName !== 'BUTTON' || card.classList.contains('us-gone')) return;
    card.classList.add('us-gone');
    emitEvent('us-say', {sha256: card.dataset.sha256, key: button.dataset.key});
  });
  document.addEventListener('keydown', (event) => {
    if (event.repeat || event.isComposing || event.altKey || document.querySelector('.q-dialog')) return;
    const at = event.target instanceof Element ? event.target : document.body;
    if (at.closest('input, select, textarea')) {
      if (event.key === 'Escape') at.blur();
      return;
    }
    const undo = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === 'z';
    if ((event.ctrlKey || event.metaKey) && !undo) return;
    if (event.key === 'Enter' && at.closest('a, button, summary')) return;
    const key = undo ? 'u' : event.key === 'Enter' ? 'a' : event.key === '/' ? 'c' : event.key.toLowerCase();
    const button = [...document.querySelectorAll('[data-key]')].find((one) => one.dataset.key === key && inSight(one));
    if (!button) return;
    event.preventDefault();
    const field = button.querySelector('input');
    if (field) field.focus(); else button.click();
  });
})()
"""


def listen() -> None:
    """Have this page listen to keys."""
    ui.run_javascript(_SCRIPT)
